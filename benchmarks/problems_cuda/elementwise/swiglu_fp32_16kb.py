"""SwiGLU of two halves, fp32, 16KB each."""

import torch
import torch.nn.functional as F
from torch import nn


class Model(nn.Module):
    def forward(self, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        return F.silu(gate) * up


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(64, 64), torch.randn(64, 64)]


def get_init_inputs() -> list[int]:
    return []
