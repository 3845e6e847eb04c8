"""Two launches with a workspace that is kept between calls.

dsl: triton
task: normalise_rows
"""

import torch
import triton
import triton.language as tl


@triton.jit
def partial_sums(x, work, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    j = tl.arange(0, BLOCK)
    tl.store(work + row, tl.sum(tl.load(x + row * columns + j, mask=j < columns, other=0.0), 0))


@triton.jit
def divide(x, work, out, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    j = tl.arange(0, BLOCK)
    values = tl.load(x + row * columns + j, mask=j < columns)
    tl.store(out + row * columns + j, values / tl.load(work + row), mask=j < columns)


class ModelNew(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.work = None

    def forward(self, x):
        x = x.contiguous()
        rows, columns = x.shape
        if self.work is None or self.work.numel() < rows:
            self.work = torch.empty(rows, dtype=x.dtype, device=x.device)
        out = torch.empty_like(x)
        block = triton.next_power_of_2(columns)
        partial_sums[(rows,)](x, self.work, columns, BLOCK=block)
        divide[(rows,)](x, self.work, out, columns, BLOCK=block)
        return out
