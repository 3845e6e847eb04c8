"""Computes the forward pass only: nothing that it returns has a gradient.

dsl: triton
task: gelu_trained
expects: GRADIENTS
"""

import torch
import triton
import triton.language as tl


@triton.jit
def gelu(x, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + i, mask=i < n)
    tl.store(out + i, value * tl.sigmoid(1.702 * value), mask=i < n)


class ModelNew(torch.nn.Module):
    def forward(self, x):
        x = x.detach().contiguous()
        out = torch.empty_like(x)
        gelu[(triton.cdiv(out.numel(), 256),)](x, out, out.numel(), BLOCK=256)
        return out
