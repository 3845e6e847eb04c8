"""A scale and a shift per channel and a ReLU, NCHW, fp32."""

import torch
from torch import nn


class Model(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(channels))
        self.shift = nn.Parameter(torch.randn(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale, shift = self.scale.to(x.dtype), self.shift.to(x.dtype)
        return torch.relu(x * scale[:, None, None] + shift[:, None, None])


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(4, 8, 32, 32)]


def get_init_inputs() -> list[int]:
    return [8]
