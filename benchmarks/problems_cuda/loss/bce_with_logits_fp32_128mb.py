"""Binary cross-entropy with logits, fp32, 128MB each."""

import torch
import torch.nn.functional as F
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.binary_cross_entropy_with_logits(x, y)


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(33554432), torch.rand(33554432)]


def get_init_inputs() -> list[int]:
    return []
