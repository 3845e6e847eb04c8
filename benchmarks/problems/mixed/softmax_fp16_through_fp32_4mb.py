"""Softmax of fp16 computed in fp32 and rounded back, 4MB."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(x.float(), dim=-1).half()


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(2048, 1024, dtype=torch.float16)]


def get_init_inputs() -> list[int]:
    return []
