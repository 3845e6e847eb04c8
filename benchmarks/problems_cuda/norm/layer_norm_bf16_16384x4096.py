"""Layer norm, bf16, 16384 rows of 4096."""

import torch
from torch import nn


class Model(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(size, dtype=torch.bfloat16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x)


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(16384, 4096, dtype=torch.bfloat16)]


def get_init_inputs() -> list[int]:
    return [4096]
