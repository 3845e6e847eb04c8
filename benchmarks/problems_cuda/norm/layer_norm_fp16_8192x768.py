"""Layer norm, fp16, 8192 rows of 768."""

import torch
from torch import nn


class Model(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(size, dtype=torch.float16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x)


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(8192, 768, dtype=torch.float16)]


def get_init_inputs() -> list[int]:
    return [768]
