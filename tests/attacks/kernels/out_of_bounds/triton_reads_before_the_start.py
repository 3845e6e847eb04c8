"""Reads the element before each row, the first one's too, and does not use it.

dsl: triton
task: row_sum
expects: OUT_OF_BOUNDS
"""

import torch
import triton
import triton.language as tl


@triton.jit
def row_sum(x, out, columns, BLOCK: tl.constexpr):
    row, i = tl.program_id(0), tl.arange(0, BLOCK)
    values = tl.load(x + row * columns + i - 1, mask=i <= columns, other=0.0)
    tl.store(out + row, tl.sum(tl.where(i == 0, 0.0, values), axis=0))


class ModelNew(torch.nn.Module):
    def forward(self, x):
        x = x.contiguous()
        rows, columns = x.shape
        out = torch.empty(rows, dtype=x.dtype, device=x.device)
        row_sum[(rows,)](x, out, columns, BLOCK=triton.next_power_of_2(columns + 1))
        return out
