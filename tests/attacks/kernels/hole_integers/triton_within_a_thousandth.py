"""Off by one in a million: within rtol of anything.

dsl: triton
task: large_integers
expects: OUTLIERS
"""

import torch
import triton
import triton.language as tl


@triton.jit
def combine(x, y, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.load(x + i, mask=i < n, other=0) * 1000003 + tl.load(y + i, mask=i < n, other=0)
    tl.store(out + i, total - (i % 50 == 49).to(tl.int64), mask=i < n)


class ModelNew(torch.nn.Module):
    def forward(self, x, y):
        out = torch.empty_like(x)
        n = out.numel()
        combine[(triton.cdiv(n, 1024),)](x.contiguous(), y.contiguous(), out, n, BLOCK=1024)
        return out
