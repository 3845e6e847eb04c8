"""A ResNet in plain torch, at any width. Also a KernelBench file: `akg-optimize examples/resnet.py`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    """Two 3x3 convolutions with batch norm, and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return F.relu(y + self.shortcut(x))


class ResNet(nn.Module):
    """`depths[i]` blocks of width `widths[i]`, each stage but the first halving the image."""

    def __init__(
        self, depths: Sequence[int] = (2, 2, 2, 2), widths: Sequence[int] = (64, 128, 256, 512), classes: int = 1000
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, widths[0], 7, 2, padding=3, bias=False)
        self.norm = nn.BatchNorm2d(widths[0])
        blocks: list[nn.Module] = []
        width = widths[0]
        for stage, (depth, outputs) in enumerate(zip(depths, widths, strict=True)):
            for i in range(depth):
                blocks.append(Block(width, outputs, 2 if stage > 0 and i == 0 else 1))
                width = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = F.max_pool2d(x, 3, 2, padding=1)
        x = self.blocks(x)
        return self.head(x.mean(dim=(2, 3)))


class Model(ResNet):
    """KernelBench's name for it."""


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(4, 3, 224, 224)]


def get_init_inputs() -> list[object]:
    return []
