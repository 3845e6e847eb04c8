"""uint8 images to normalised fp32."""

import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = torch.tensor([0.485, 0.456, 0.406], device=x.device)[:, None, None]
        std = torch.tensor([0.229, 0.224, 0.225], device=x.device)[:, None, None]
        return (x.float() / 255 - mean) / std


def get_inputs() -> list[torch.Tensor]:
    return [torch.randint(0, 256, (64, 3, 512, 512), dtype=torch.uint8)]


def get_init_inputs() -> list[int]:
    return []
