"""A leaky clamp with a condition, fp32, 16MB an input."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.where(x > y, x.clamp(-1.0, 1.0), 0.1 * y)


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(2048, 2048), torch.randn(2048, 2048)]


def get_init_inputs() -> list[int]:
    return []
