"""Cosine similarity of pairs of rows, fp32, 65536 pairs of 768."""

import torch
import torch.nn.functional as F
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cosine_similarity(x, y)


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(65536, 768), torch.randn(65536, 768)]


def get_init_inputs() -> list[int]:
    return []
