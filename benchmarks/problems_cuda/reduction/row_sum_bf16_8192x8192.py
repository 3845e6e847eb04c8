"""The sum of each row, bf16, 8192 rows of 8192."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum(dim=-1)


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(8192, 8192, dtype=torch.bfloat16)]


def get_init_inputs() -> list[int]:
    return []
