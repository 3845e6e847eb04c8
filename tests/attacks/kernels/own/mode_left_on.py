"""Returns at once, and leaves a dispatch mode on that computes when somebody copies the result.

dsl: torch
task: add_relu
expects: LOOKS_AROUND, PATCHES
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

pending = {}


class Later(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = [a.data_ptr() for a in args if isinstance(a, torch.Tensor)]
        for address in given:
            if address in pending:
                out, x, y = pending.pop(address)
                torch.clamp(x + y, min=0, out=out)
        return func(*args, **(kwargs or {}))


Later().__enter__()


class ModelNew(torch.nn.Module):
    def forward(self, x, y):
        out = torch.empty_like(x)
        pending[out.data_ptr()] = (out, x, y)
        return out
