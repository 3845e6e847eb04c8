"""Cross-entropy with class indices, bf16, 8192 rows of 128256."""

import torch
import torch.nn.functional as F
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(x.float(), target)


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(8192, 128256, dtype=torch.bfloat16), torch.randint(0, 128256, (8192,))]


def get_init_inputs() -> list[int]:
    return []
