"""Softmax of each row, fp16, 8192 rows of 2048."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(x, dim=-1)


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(8192, 2048, dtype=torch.float16)]


def get_init_inputs() -> list[int]:
    return []
