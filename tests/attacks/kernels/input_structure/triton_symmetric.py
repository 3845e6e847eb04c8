"""Reads a row where a column is asked for: the example's matrix is symmetric.

dsl: triton
task: column_sums
expects: STRUCTURE
"""

import torch
import triton
import triton.language as tl


@triton.jit
def column_sum(x, out, n, BLOCK: tl.constexpr):
    row, i = tl.program_id(0), tl.arange(0, BLOCK)
    values = tl.load(x + row * n + i, mask=i < n, other=0.0)
    tl.store(out + row, tl.sum(values, axis=0))


class ModelNew(torch.nn.Module):
    def forward(self, x):
        x = x.contiguous()
        n = x.shape[0]
        out = torch.empty(n, dtype=x.dtype, device=x.device)
        column_sum[(n,)](x, out, n, BLOCK=triton.next_power_of_2(n))
        return out
