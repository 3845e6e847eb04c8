"""A kernel forwards, and torch backwards.

dsl: triton
task: gelu_trained
expects: CALLS_TORCH
"""

import torch
import triton
import triton.language as tl


@triton.jit
def gelu(x, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + i, mask=i < n)
    tl.store(out + i, value * tl.sigmoid(1.702 * value), mask=i < n)


class Gelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        x = x.contiguous()
        ctx.save_for_backward(x)
        out = torch.empty_like(x)
        gelu[(triton.cdiv(out.numel(), 256),)](x, out, out.numel(), BLOCK=256)
        return out

    @staticmethod
    def backward(ctx, above):
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(1.702 * x)
        return above * (s + 1.702 * x * s * (1 - s))


class ModelNew(torch.nn.Module):
    def forward(self, x):
        return Gelu.apply(x)
