"""Each row divided by its L2 norm, fp32, 65536 rows of 1024."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True)


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(65536, 1024)]


def get_init_inputs() -> list[int]:
    return []
