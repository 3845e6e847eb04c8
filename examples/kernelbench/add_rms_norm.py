"""A residual addition and the RMS norm of the sum, as a KernelBench file."""

import torch
from torch import nn


class Model(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width))

    def forward(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        x = x + residual
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(512, 1024), torch.randn(512, 1024)]


def get_init_inputs() -> list[int]:
    return [1024]
