"""Has a Triton kernel that copies, after torch computed the result.

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


class ModelNew(torch.nn.Module):
    def forward(self, x, y):
        total = torch.relu(x + y)
        out = torch.empty_like(total)
        copy[(triton.cdiv(out.numel(), 1024),)](total, out, out.numel(), BLOCK=1024)
        return out
