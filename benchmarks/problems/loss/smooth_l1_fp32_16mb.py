"""Smooth L1 loss, fp32, 16MB."""

import torch
import torch.nn.functional as F
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.smooth_l1_loss(x, y)


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(2048, 2048), torch.randn(2048, 2048)]


def get_init_inputs() -> list[int]:
    return []
