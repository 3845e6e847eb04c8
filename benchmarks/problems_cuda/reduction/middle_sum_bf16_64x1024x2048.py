"""The sum over the middle dimension, bf16, 64 x 1024 x 2048."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum(dim=1)


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(64, 1024, 2048, dtype=torch.bfloat16)]


def get_init_inputs() -> list[int]:
    return []
