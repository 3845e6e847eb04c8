"""Batch norm with running statistics, then a ReLU, fp32, 64MB."""

import torch
import torch.nn.functional as F
from torch import nn


class Model(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(size).eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.norm(x))


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(16, 64, 128, 128)]


def get_init_inputs() -> list[int]:
    return [64]
