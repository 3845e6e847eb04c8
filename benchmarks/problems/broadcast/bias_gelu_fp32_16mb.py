"""A bias over the rows, then GELU by tanh, fp32, 16MB."""

import torch
import torch.nn.functional as F
from torch import nn


class Model(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(size, dtype=torch.float32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.gelu(x + self.bias, approximate="tanh")


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(1024, 4096)]


def get_init_inputs() -> list[int]:
    return [4096]
