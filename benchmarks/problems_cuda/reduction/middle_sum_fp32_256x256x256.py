"""The sum over the middle dimension, fp32, 256 x 256 x 256."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum(dim=1)


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(256, 256, 256)]


def get_init_inputs() -> list[int]:
    return []
