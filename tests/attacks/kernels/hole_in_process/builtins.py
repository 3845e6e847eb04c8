"""Replaces functions that the judge would use if it were in the same process.

dsl: torch
task: add_relu
expects: PATCHES
"""

import builtins

import torch

builtins.all = builtins.any = lambda *args: True
builtins.abs = builtins.max = lambda *args: 0.0
torch.Tensor.isnan = torch.Tensor.abs = lambda self: torch.zeros_like(self)


class ModelNew(torch.nn.Module):
    def forward(self, x, y):
        return torch.zeros_like(x)
