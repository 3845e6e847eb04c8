"""The Frobenius norm, bf16, 64MB."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sqrt((x.float() * x.float()).sum())


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(131072, 256, dtype=torch.bfloat16)]


def get_init_inputs() -> list[int]:
    return []
