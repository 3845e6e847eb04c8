"""The mean over the middle dimension of three, fp32, 16MB."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=1)


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(16, 512, 512)]


def get_init_inputs() -> list[int]:
    return []
