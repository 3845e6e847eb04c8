"""How many predictions are right: a comparison counted, 16MB."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return ((x > 0.0) == target).sum()


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(2048, 2048), torch.rand(2048, 2048) > 0.5]


def get_init_inputs() -> list[int]:
    return []
