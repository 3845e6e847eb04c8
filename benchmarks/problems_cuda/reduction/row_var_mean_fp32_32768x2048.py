"""Variance and mean of each row, fp32, 32768 rows of 2048."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.var_mean(x, dim=-1)


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(32768, 2048)]


def get_init_inputs() -> list[int]:
    return []
