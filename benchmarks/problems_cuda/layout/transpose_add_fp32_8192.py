"""A matrix plus another's transpose, fp32, 8192 x 8192."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + y.t()


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(8192, 8192), torch.randn(8192, 8192)]


def get_init_inputs() -> list[int]:
    return []
