"""Softmax over the channels of NCHW, fp32, 16MB."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(x, dim=1)


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(16, 64, 64, 64)]


def get_init_inputs() -> list[int]:
    return []
