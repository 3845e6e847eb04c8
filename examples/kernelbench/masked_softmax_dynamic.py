"""Scaled, masked softmax at several lengths: the dynamic-shape form of a KernelBench file."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return torch.softmax(scores * 0.125 + mask, dim=-1)


def get_inputs_dyn_list() -> list[list[torch.Tensor]]:
    lengths = (64, 200, 384)
    return [[torch.randn(2, 8, n, n), torch.full((n, n), float("-inf")).triu(1)] for n in lengths]


def get_init_inputs() -> list[int]:
    return []
