"""SwiGLU of two halves, bf16, 4MB each."""

import torch
import torch.nn.functional as F
from torch import nn


class Model(nn.Module):
    def forward(self, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        return F.silu(gate) * up


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(2048, 1024, dtype=torch.bfloat16), torch.randn(2048, 1024, dtype=torch.bfloat16)]


def get_init_inputs() -> list[int]:
    return []
