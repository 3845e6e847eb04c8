"""The sum of each row, fp64, 32MB."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum(dim=-1)


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(1024, 4096, dtype=torch.float64)]


def get_init_inputs() -> list[int]:
    return []
