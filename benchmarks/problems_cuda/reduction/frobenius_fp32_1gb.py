"""The Frobenius norm, fp32, 1GB."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sqrt((x * x).sum())


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(1048576, 256)]


def get_init_inputs() -> list[int]:
    return []
