"""A bf16 tensor times an fp32 row, rounded back, 256MB."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return (x * w).to(torch.bfloat16)


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(32768, 4096, dtype=torch.bfloat16), torch.randn(4096)]


def get_init_inputs() -> list[int]:
    return []
