"""The Frobenius norm: one number, fp32, 200MB."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sqrt((x * x).sum())


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(50, 1024, 1024)]


def get_init_inputs() -> list[int]:
    return []
