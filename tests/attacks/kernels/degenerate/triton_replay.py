"""Returns its first output for a task that does not look at the values of its input.

dsl: triton
task: only_the_shape
expects: DEGENERATE
"""

import torch
import triton
import triton.language as tl


@triton.jit
def ramp(out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, i.to(tl.float32), mask=i < n)


class ModelNew(torch.nn.Module):
    def forward(self, x):
        out = torch.empty(x.shape[1], dtype=x.dtype, device=x.device)
        ramp[(triton.cdiv(out.numel(), 1024),)](out, out.numel(), BLOCK=1024)
        return out
