"""Add, ReLU and scale, bf16, 1GB each."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + y) * 0.5


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(536870912, dtype=torch.bfloat16), torch.randn(536870912, dtype=torch.bfloat16)]


def get_init_inputs() -> list[int]:
    return []
