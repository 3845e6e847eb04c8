"""Returns a window on the memory that its inputs lie in, where it has put the result.

dsl: torch
task: add_relu
expects: ALIASES
"""

import torch


class ModelNew(torch.nn.Module):
    def forward(self, x, y):
        torch.clamp(x + y, min=0, out=y)
        return torch.empty(0, device=y.device).set_(y.untyped_storage(), y.storage_offset(), x.shape, x.stride())
