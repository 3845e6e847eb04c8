"""GELU by tanh, bf16, 4MB an input."""

import torch
import torch.nn.functional as F
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.gelu(x, approximate="tanh")


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(2048, 1024, dtype=torch.bfloat16)]


def get_init_inputs() -> list[int]:
    return []
