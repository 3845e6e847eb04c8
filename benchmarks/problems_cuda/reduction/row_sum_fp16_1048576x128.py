"""The sum of each row, fp16, 1048576 rows of 128."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum(dim=-1)


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(1048576, 128, dtype=torch.float16)]


def get_init_inputs() -> list[int]:
    return []
