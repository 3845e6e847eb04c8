"""The sum over the middle dimension, fp32, 16 x 4096 x 4096."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum(dim=1)


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(16, 4096, 4096)]


def get_init_inputs() -> list[int]:
    return []
