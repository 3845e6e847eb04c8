"""A matrix plus another's transpose, fp32, 512 x 512."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + y.t()


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(512, 512), torch.randn(512, 512)]


def get_init_inputs() -> list[int]:
    return []
