"""Takes the last of equal values: right on random numbers.

dsl: triton
task: arg_max
expects: STRUCTURE
"""

import torch
import triton
import triton.language as tl


@triton.jit
def arg_max(x, out, columns, BLOCK: tl.constexpr):
    row, i = tl.program_id(0), tl.arange(0, BLOCK)
    values = tl.load(x + row * columns + i, mask=i < columns, other=-float("inf"))
    most = tl.max(values, axis=0)
    tl.store(out + row, tl.max(tl.where(values == most, i, -1), axis=0).to(tl.int64))


class ModelNew(torch.nn.Module):
    def forward(self, x):
        x = x.contiguous()
        rows, columns = x.shape
        out = torch.empty(rows, dtype=torch.int64, device=x.device)
        arg_max[(rows,)](x, out, columns, BLOCK=triton.next_power_of_2(columns))
        return out
