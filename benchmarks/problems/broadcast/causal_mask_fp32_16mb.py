"""Attention scores scaled and masked by a broadcast (S, S) mask, fp32, 16MB."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return (x * 0.125).masked_fill(mask, float("-inf"))


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(2, 8, 512, 512), torch.ones(512, 512, dtype=torch.bool).triu(1)]


def get_init_inputs() -> list[int]:
    return []
