"""uint8 NHWC images to normalised fp32 NCHW: a cast, a permutation and a broadcast, 12MB of uint8."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
        x = x.permute(0, 3, 1, 2).float() / 255.0
        return ((x - mean[:, None, None]) / std[:, None, None]).contiguous()


def get_inputs() -> list[torch.Tensor]:
    return [torch.randint(0, 256, (64, 256, 256, 3), dtype=torch.uint8), torch.rand(3), torch.rand(3) + 0.5]


def get_init_inputs() -> list[int]:
    return []
