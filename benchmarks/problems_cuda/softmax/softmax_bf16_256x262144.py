"""Softmax of each row, bf16, 256 rows of 262144."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(x, dim=-1)


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(256, 262144, dtype=torch.bfloat16)]


def get_init_inputs() -> list[int]:
    return []
