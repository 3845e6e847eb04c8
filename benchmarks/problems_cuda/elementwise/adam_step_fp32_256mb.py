"""One Adam step without a fused optimiser, fp32, 256MB a tensor."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, p: torch.Tensor, g: torch.Tensor, m: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, ...]:
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g * g
        return p - 1e-3 * m / (torch.sqrt(v) + 1e-8), m, v


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(67108864), torch.randn(67108864), torch.randn(67108864), torch.rand(67108864)]


def get_init_inputs() -> list[int]:
    return []
