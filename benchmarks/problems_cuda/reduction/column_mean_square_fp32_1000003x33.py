"""The mean square of each column, fp32, 1000003 x 33."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * x).mean(dim=0)


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(1000003, 33)]


def get_init_inputs() -> list[int]:
    return []
