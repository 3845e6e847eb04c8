"""Adds atomically to memory that nobody cleared.

dsl: triton
task: row_sum
expects: STALE_MEMORY
"""

import torch
import triton
import triton.language as tl


@triton.jit
def row_sum(x, out, columns, BLOCK: tl.constexpr):
    row, i = tl.program_id(0), tl.arange(0, BLOCK)
    values = tl.load(x + row * columns + i, mask=i < columns, other=0.0)
    tl.atomic_add(out + row, tl.sum(values, axis=0))


class ModelNew(torch.nn.Module):
    def forward(self, x):
        x = x.contiguous()
        rows, columns = x.shape
        out = torch.empty(rows, dtype=x.dtype, device=x.device)
        row_sum[(rows,)](x, out, columns, BLOCK=triton.next_power_of_2(columns))
        return out
