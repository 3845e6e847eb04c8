"""Returns a tensor subclass that computes when it is looked at.

dsl: torch
task: add_relu
expects: SUBCLASS
"""

import torch


class Lazy(torch.Tensor):
    @staticmethod
    def __new__(cls, x, y):
        made = torch.Tensor._make_wrapper_subclass(cls, x.shape, dtype=x.dtype, device=x.device)
        made.x, made.y = x, y
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        args = [torch.relu(a.x + a.y) if isinstance(a, Lazy) else a for a in args]
        return func(*args, **(kwargs or {}))


class ModelNew(torch.nn.Module):
    def forward(self, x, y):
        return Lazy(x, y)
