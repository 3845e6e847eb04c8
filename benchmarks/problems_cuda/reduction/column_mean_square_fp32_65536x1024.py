"""The mean square of each column, fp32, 65536 x 1024."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * x).mean(dim=0)


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(65536, 1024)]


def get_init_inputs() -> list[int]:
    return []
