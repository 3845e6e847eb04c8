"""Instance norm, fp32, 16MB."""

import torch
from torch import nn


class Model(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm2d(size, affine=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x)


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(16, 64, 64, 64)]


def get_init_inputs() -> list[int]:
    return [64]
