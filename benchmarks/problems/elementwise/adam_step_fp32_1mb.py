"""One Adam update of a parameter, functional: three outputs, fp32, 1MB a tensor."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, w: torch.Tensor, g: torch.Tensor, m: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, ...]:
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g * g
        return w - 1e-3 * (m / 0.1) / (torch.sqrt(v / 0.001) + 1e-8), m, v


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(512, 512), torch.randn(512, 512), torch.randn(512, 512), torch.rand(512, 512)]


def get_init_inputs() -> list[int]:
    return []
