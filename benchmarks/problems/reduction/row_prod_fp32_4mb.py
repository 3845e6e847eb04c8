"""The product of each row of values near 1, fp32, 4MB."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (1.0 + 0.001 * x).prod(dim=-1)


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(1024, 1024)]


def get_init_inputs() -> list[int]:
    return []
