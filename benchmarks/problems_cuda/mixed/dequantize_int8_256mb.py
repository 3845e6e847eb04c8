"""int8 values times a scale per row, to bf16, 256MB."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, q: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return (q.float() * scale).to(torch.bfloat16)


def get_inputs() -> list[torch.Tensor]:
    return [torch.randint(-128, 128, (65536, 4096), dtype=torch.int8), torch.rand(65536, 1)]


def get_init_inputs() -> list[int]:
    return []
