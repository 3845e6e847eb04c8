"""A scale and shift per channel of NCHW, then a ReLU, fp32, 1MB."""

import torch
import torch.nn.functional as F
from torch import nn


class Model(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(channels))
        self.shift = nn.Parameter(torch.randn(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x * self.scale[:, None, None] + self.shift[:, None, None])


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(4, 64, 32, 32)]


def get_init_inputs() -> list[int]:
    return [64]
