"""Smooth L1 loss, bf16, 256MB each."""

import torch
import torch.nn.functional as F
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.smooth_l1_loss(x.float(), y.float())


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(134217728, dtype=torch.bfloat16), torch.randn(134217728, dtype=torch.bfloat16)]


def get_init_inputs() -> list[int]:
    return []
