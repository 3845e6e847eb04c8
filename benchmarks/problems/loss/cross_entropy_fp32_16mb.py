"""Cross-entropy with class indices, fp32, 16MB."""

import torch
import torch.nn.functional as F
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(x, target)


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(1024, 4096), torch.randint(0, 4096, (1024,))]


def get_init_inputs() -> list[int]:
    return []
