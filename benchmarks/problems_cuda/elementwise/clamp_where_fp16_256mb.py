"""Clamp and select, fp16, 256MB."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where(x > 0, x.clamp(max=1.0), 0.1 * x)


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(134217728, dtype=torch.float16)]


def get_init_inputs() -> list[int]:
    return []
