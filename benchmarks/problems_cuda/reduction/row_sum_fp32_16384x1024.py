"""The sum of each row, fp32, 16384 rows of 1024."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum(dim=-1)


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(16384, 1024)]


def get_init_inputs() -> list[int]:
    return []
