"""Hinge loss with targets of -1 and 1, fp32, 16MB."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.mean(torch.clamp(1.0 - x * y, min=0.0))


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(4096, 1024), torch.randint(0, 2, (4096, 1024)).float() * 2.0 - 1.0]


def get_init_inputs() -> list[int]:
    return []
