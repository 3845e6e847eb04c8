"""The sum over rows of 64-bit integers, int64, 8MB."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum(dim=-1)


def get_inputs() -> list[torch.Tensor]:
    return [torch.randint(0, 1000, (1024, 1024))]


def get_init_inputs() -> list[int]:
    return []
