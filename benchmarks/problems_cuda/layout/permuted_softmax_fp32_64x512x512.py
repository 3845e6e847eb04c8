"""Softmax over the last dimension of a permuted tensor, fp32."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(x.permute(0, 2, 1) * 0.5, dim=-1)


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(64, 512, 512)]


def get_init_inputs() -> list[int]:
    return []
