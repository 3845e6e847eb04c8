"""Whether any value of a row is not finite, fp32, 16MB."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.isnan(x).any(dim=-1) | (x.abs() == float("inf")).any(dim=-1)


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(2048, 2048)]


def get_init_inputs() -> list[int]:
    return []
