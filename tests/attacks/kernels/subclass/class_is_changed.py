"""Computes nothing, and makes a plain tensor an instance of another class afterwards.

dsl: torch
task: add_relu
expects: SUBCLASS
"""

import torch


class Fake(torch.Tensor):
    def copy_(self, *args):
        return self

    def clone(self, *args):
        return torch.relu(self.x + self.y)


class ModelNew(torch.nn.Module):
    def forward(self, x, y):
        out = torch.empty_like(x)
        out.__class__ = Fake
        out.x, out.y = x, y
        return out
