"""RMS norm of bf16 computed in fp32, as Llama does it, 16MB."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        y = x.float()
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)
        return weight * y.to(torch.bfloat16)


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(4096, 2048, dtype=torch.bfloat16), torch.randn(2048, dtype=torch.bfloat16)]


def get_init_inputs() -> list[int]:
    return []
