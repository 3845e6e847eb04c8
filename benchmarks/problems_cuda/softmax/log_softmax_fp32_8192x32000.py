"""Log-softmax of each row, fp32, 8192 rows of 32000."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.log_softmax(x, dim=-1)


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(8192, 32000)]


def get_init_inputs() -> list[int]:
    return []
