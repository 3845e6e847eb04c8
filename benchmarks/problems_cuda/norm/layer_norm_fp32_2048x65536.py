"""Layer norm, fp32, 2048 rows of 65536."""

import torch
from torch import nn


class Model(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x)


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(2048, 65536)]


def get_init_inputs() -> list[int]:
    return [65536]
