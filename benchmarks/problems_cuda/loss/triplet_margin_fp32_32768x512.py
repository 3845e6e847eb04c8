"""Triplet margin loss, fp32, 32768 rows of 512."""

import torch
import torch.nn.functional as F
from torch import nn


class Model(nn.Module):
    def forward(self, anchor: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
        return F.triplet_margin_loss(anchor, positive, negative)


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(32768, 512), torch.randn(32768, 512), torch.randn(32768, 512)]


def get_init_inputs() -> list[int]:
    return []
