"""Instance norm, fp32."""

import torch
import torch.nn.functional as F
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.instance_norm(x)


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(32, 64, 256, 256)]


def get_init_inputs() -> list[int]:
    return []
