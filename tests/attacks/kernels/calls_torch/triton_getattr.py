"""Hides the call in getattr() of a name that is put together.

dsl: triton
task: softmax
expects: CALLS_TORCH, HIDES_CALLS
"""

import torch
import triton
import triton.language as tl


@triton.jit
def copy(x, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, mask=i < n), mask=i < n)


def launch_copy(x):
    x = x.contiguous()
    out = torch.empty_like(x)
    copy[(triton.cdiv(out.numel(), 1024),)](x, out, out.numel(), BLOCK=1024)
    return out


class ModelNew(torch.nn.Module):
    def forward(self, x):
        return launch_copy(getattr(torch, "soft" + "max")(x, -1))
