"""Triplet margin loss, fp32, 4MB."""

import torch
import torch.nn.functional as F
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return F.triplet_margin_loss(x, y, z)


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(1024, 1024), torch.randn(1024, 1024), torch.randn(1024, 1024)]


def get_init_inputs() -> list[int]:
    return []
