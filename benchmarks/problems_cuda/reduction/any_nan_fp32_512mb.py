"""Whether any element is NaN, fp32, 512MB."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.isnan(x).any()


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(134217728)]


def get_init_inputs() -> list[int]:
    return []
