"""Each row divided by its L2 norm, bf16, 32768 rows of 4096."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True)


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(32768, 4096, dtype=torch.bfloat16)]


def get_init_inputs() -> list[int]:
    return []
