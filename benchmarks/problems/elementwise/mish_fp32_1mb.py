"""Mish: x * tanh(softplus(x)), fp32, 1MB an input."""

import torch
import torch.nn.functional as F
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.tanh(F.softplus(x))


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(512, 512)]


def get_init_inputs() -> list[int]:
    return []
