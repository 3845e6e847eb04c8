"""Mish, written out, bf16, 64MB."""

import torch
import torch.nn.functional as F
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.tanh(F.softplus(x))


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(33554432, dtype=torch.bfloat16)]


def get_init_inputs() -> list[int]:
    return []
