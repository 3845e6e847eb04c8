"""A residual scaled in fp32 and added, bf16, 128MB."""

import torch
from torch import nn


class Model(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(size))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + (y.float() * self.gamma).to(x.dtype)


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(16384, 4096, dtype=torch.bfloat16), torch.randn(16384, 4096, dtype=torch.bfloat16)]


def get_init_inputs() -> list[int]:
    return [4096]
