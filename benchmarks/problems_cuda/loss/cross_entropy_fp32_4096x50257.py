"""Cross-entropy with class indices, fp32, 4096 rows of 50257."""

import torch
import torch.nn.functional as F
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(x, target)


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(4096, 50257), torch.randint(0, 50257, (4096,))]


def get_init_inputs() -> list[int]:
    return []
