"""SwiGLU of two halves, fp32, 256MB each."""

import torch
import torch.nn.functional as F
from torch import nn


class Model(nn.Module):
    def forward(self, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        return F.silu(gate) * up


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(65536, 1024), torch.randn(65536, 1024)]


def get_init_inputs() -> list[int]:
    return []
