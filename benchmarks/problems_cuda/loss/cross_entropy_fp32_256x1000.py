"""Cross-entropy with class indices, fp32, 256 rows of 1000."""

import torch
import torch.nn.functional as F
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(x, target)


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(256, 1000), torch.randint(0, 1000, (256,))]


def get_init_inputs() -> list[int]:
    return []
