"""A scale per channel and a ReLU on a channels-last tensor, fp32, 16MB."""

import torch
import torch.nn.functional as F
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return F.relu(x * scale[:, None, None] + 1.0)


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(16, 64, 64, 64).to(memory_format=torch.channels_last), torch.randn(64)]


def get_init_inputs() -> list[int]:
    return []
