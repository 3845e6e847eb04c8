"""bf16 times an fp32 scale per row, rounded back, 16MB."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return (x.float() * scale).to(torch.bfloat16)


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(4096, 2048, dtype=torch.bfloat16), torch.rand(4096, 1)]


def get_init_inputs() -> list[int]:
    return []
