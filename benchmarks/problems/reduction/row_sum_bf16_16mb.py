"""The sum of each row, bf16, 16MB."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum(dim=-1)


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(2048, 4096, dtype=torch.bfloat16)]


def get_init_inputs() -> list[int]:
    return []
