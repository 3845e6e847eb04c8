"""A leaky clamp with a condition, fp32, 16KB an input."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.where(x > y, x.clamp(-1.0, 1.0), 0.1 * y)


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(64, 64), torch.randn(64, 64)]


def get_init_inputs() -> list[int]:
    return []
