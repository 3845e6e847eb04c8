"""Adds up into memory that torch has filled with zeros.

dsl: triton
task: row_sum
"""

import torch
import triton
import triton.language as tl


@triton.jit
def accumulate(x, out, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    for start in range(0, columns, BLOCK):
        j = start + tl.arange(0, BLOCK)
        part = tl.sum(tl.load(x + row * columns + j, mask=j < columns, other=0.0), 0)
        tl.store(out + row, tl.load(out + row) + part)


class ModelNew(torch.nn.Module):
    def forward(self, x):
        x = x.contiguous()
        out = torch.zeros(x.shape[0], dtype=x.dtype, device=x.device)
        accumulate[(x.shape[0],)](x, out, x.shape[1], BLOCK=32)
        return out
