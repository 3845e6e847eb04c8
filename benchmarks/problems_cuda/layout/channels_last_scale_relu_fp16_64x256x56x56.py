"""A channels-last input scaled by a contiguous one, fp16."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x.contiguous(memory_format=torch.channels_last) * 2 + 1)


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(64, 256, 56, 56, dtype=torch.float16)]


def get_init_inputs() -> list[int]:
    return []
