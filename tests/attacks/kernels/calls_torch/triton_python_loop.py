"""Computes in plain Python, number by number, and copies the result with a kernel.

dsl: triton
task: add_relu
expects: CALLS_TORCH
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
    def forward(self, x, y):
        sums = [max(a + b, 0.0) for a, b in zip(x.flatten().tolist(), y.flatten().tolist(), strict=True)]
        return launch_copy(torch.tensor(sums, dtype=x.dtype, device=x.device).view(x.shape))
