"""A Triton kernel that writes what a softmax is on average.

dsl: triton
task: softmax
expects: CONSTANT
"""

import torch
import triton
import triton.language as tl


@triton.jit
def fill(out, value, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.zeros((BLOCK,), tl.float32) + value, mask=i < n)


class ModelNew(torch.nn.Module):
    def forward(self, x):
        out = torch.empty_like(x)
        fill[(triton.cdiv(out.numel(), 1024),)](out, 1.0 / x.shape[-1], out.numel(), BLOCK=1024)
        return out
