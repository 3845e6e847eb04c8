"""Exact GELU of a scaled input, bf16, 512MB."""

import torch
import torch.nn.functional as F
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.gelu(x * 1.5)


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(268435456, dtype=torch.bfloat16)]


def get_init_inputs() -> list[int]:
    return []
