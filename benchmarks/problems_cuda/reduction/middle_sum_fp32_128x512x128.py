"""The sum over the middle dimension, fp32, 128 x 512 x 128."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum(dim=1)


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(128, 512, 128)]


def get_init_inputs() -> list[int]:
    return []
