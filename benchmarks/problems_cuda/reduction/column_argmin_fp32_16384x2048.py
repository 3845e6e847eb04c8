"""The arg-min of each column, fp32, 16384 x 2048."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.argmin(dim=0)


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(16384, 2048)]


def get_init_inputs() -> list[int]:
    return []
