"""Softmax of each row, fp32, 4096 rows of 50257."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(x, dim=-1)


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(4096, 50257)]


def get_init_inputs() -> list[int]:
    return []
