"""Knows that rows have ninety-six elements.

dsl: triton
task: softmax_dynamic
expects: OUT_OF_BOUNDS
"""

import torch
import triton
import triton.language as tl


@triton.jit
def softmax(x, out, BLOCK: tl.constexpr):
    row, i = tl.program_id(0), tl.arange(0, BLOCK)
    values = tl.load(x + row * 96 + i, mask=i < 96, other=-float("inf"))
    e = tl.exp(values - tl.max(values, axis=0))
    tl.store(out + row * 96 + i, e / tl.sum(e, axis=0), mask=i < 96)


class ModelNew(torch.nn.Module):
    def forward(self, x):
        x = x.contiguous()
        out = torch.empty_like(x)
        softmax[(x.shape[0],)](x, out, BLOCK=128)
        return out
