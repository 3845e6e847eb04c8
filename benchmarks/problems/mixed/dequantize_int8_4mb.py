"""int8 weights to fp32 with a scale and a zero point per row, 4MB of int8."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
        return (x.float() - zero) * scale


def get_inputs() -> list[torch.Tensor]:
    return [torch.randint(-128, 128, (2048, 2048), dtype=torch.int8), torch.rand(2048, 1), torch.randn(2048, 1)]


def get_init_inputs() -> list[int]:
    return []
