"""Has torch compute a table of constants when it is built, and a kernel use it.

dsl: triton
task: weigh_columns
"""

import torch
import triton
import triton.language as tl


@triton.jit
def weigh(x, table, out, columns, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    product = tl.load(x + i, mask=i < n) * tl.load(table + i % columns, mask=i < n)
    tl.store(out + i, product, mask=i < n)


class ModelNew(torch.nn.Module):
    def __init__(self, columns):
        super().__init__()
        self.register_buffer("table", torch.cos(0.1 * torch.arange(columns)))

    def forward(self, x):
        x = x.contiguous()
        out = torch.empty_like(x)
        weigh[(triton.cdiv(out.numel(), 256),)](x, self.table, out, x.shape[1], out.numel(), BLOCK=256)
        return out
