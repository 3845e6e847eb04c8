"""A polynomial of degree 4 by Horner, fp64, 32MB an input."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (((0.1 * x + 0.2) * x + 0.3) * x + 0.4) * x + 0.5


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(2048, 2048, dtype=torch.float64)]


def get_init_inputs() -> list[int]:
    return []
