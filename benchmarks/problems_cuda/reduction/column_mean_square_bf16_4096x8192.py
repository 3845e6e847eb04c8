"""The mean square of each column, bf16, 4096 x 8192."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * x).mean(dim=0)


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(4096, 8192, dtype=torch.bfloat16)]


def get_init_inputs() -> list[int]:
    return []
