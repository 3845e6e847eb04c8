"""Adds with the operator of tensors, and leaves only the rest to its kernel.

dsl: triton
task: add_relu
expects: CALLS_TORCH
"""

import torch
import triton
import triton.language as tl


@triton.jit
def relu(x, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + i, mask=i < n)
    tl.store(out + i, tl.where(value < 0, 0.0, value), mask=i < n)


def launch(x):
    x = x.contiguous()
    out = torch.empty_like(x)
    relu[(triton.cdiv(out.numel(), 1024),)](x, out, out.numel(), BLOCK=1024)
    return out


class ModelNew(torch.nn.Module):
    def forward(self, x, y):
        return launch(x + y)
