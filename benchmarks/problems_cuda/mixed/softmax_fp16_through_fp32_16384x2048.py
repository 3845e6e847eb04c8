"""Softmax in fp32 of fp16 scores, rounded back."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(x.float(), dim=-1).to(torch.float16)


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(16384, 2048, dtype=torch.float16)]


def get_init_inputs() -> list[int]:
    return []
