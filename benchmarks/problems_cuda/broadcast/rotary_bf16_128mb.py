"""Rotary position embedding of queries, bf16."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        half = x.shape[-1] // 2
        rotated = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
        return x * cos + rotated * sin


def get_inputs() -> list[torch.Tensor]:
    return [
        torch.randn(8, 32, 2048, 128, dtype=torch.bfloat16),
        torch.rand(2048, 128, dtype=torch.bfloat16),
        torch.rand(2048, 128, dtype=torch.bfloat16),
    ]


def get_init_inputs() -> list[int]:
    return []
