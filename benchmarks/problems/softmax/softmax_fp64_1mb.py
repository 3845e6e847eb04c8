"""Softmax of each row, fp64, 1MB."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(x, dim=-1)


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(128, 1024, dtype=torch.float64)]


def get_init_inputs() -> list[int]:
    return []
