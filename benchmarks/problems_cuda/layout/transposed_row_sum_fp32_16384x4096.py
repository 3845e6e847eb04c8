"""The row sums of a transposed matrix, fp32."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.t() * 2).sum(dim=-1)


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(16384, 4096)]


def get_init_inputs() -> list[int]:
    return []
