"""The gate of a SwiGLU feed-forward layer, bf16, 16MB an input."""

import torch
import torch.nn.functional as F
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.silu(x) * y


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(2048, 4096, dtype=torch.bfloat16), torch.randn(2048, 4096, dtype=torch.bfloat16)]


def get_init_inputs() -> list[int]:
    return []
