"""A matrix plus another's transpose, bf16, 16384 x 16384."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + y.t()


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(16384, 16384, dtype=torch.bfloat16), torch.randn(16384, 16384, dtype=torch.bfloat16)]


def get_init_inputs() -> list[int]:
    return []
