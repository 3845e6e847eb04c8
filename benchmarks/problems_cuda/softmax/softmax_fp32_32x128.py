"""Softmax of each row, fp32, 32 rows of 128."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(x, dim=-1)


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(32, 128)]


def get_init_inputs() -> list[int]:
    return []
