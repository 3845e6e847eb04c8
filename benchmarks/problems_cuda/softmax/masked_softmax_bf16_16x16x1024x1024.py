"""Scores scaled, masked and normalised, bf16."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return torch.softmax((scores * 0.125).masked_fill(mask, float("-inf")), dim=-1)


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(16, 16, 1024, 1024, dtype=torch.bfloat16), torch.ones(1024, 1024, dtype=torch.bool).triu(1)]


def get_init_inputs() -> list[int]:
    return []
