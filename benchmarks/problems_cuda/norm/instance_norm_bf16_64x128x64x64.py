"""Instance norm, bf16."""

import torch
import torch.nn.functional as F
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.instance_norm(x)


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(64, 128, 64, 64, dtype=torch.bfloat16)]


def get_init_inputs() -> list[int]:
    return []
