"""Turns, slices and joins views of its input in the wrapper.

dsl: triton
task: softmax
"""

import torch
import triton
import triton.language as tl


@triton.jit
def softmax(x, out, columns, step_row, step_column, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    j = tl.arange(0, BLOCK)
    values = tl.load(x + row * step_row + j * step_column, mask=j < columns, other=-float("inf"))
    powers = tl.exp(values - tl.max(values, 0))
    tl.store(out + row * columns + j, powers / tl.sum(powers, 0), mask=j < columns)


class ModelNew(torch.nn.Module):
    def forward(self, x):
        turned = torch.cat([x[:8].t(), x[8:].t()], dim=1).t()
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        rows, columns = turned.shape
        block = triton.next_power_of_2(columns)
        softmax[(rows,)](turned, out, columns, turned.stride(0), turned.stride(1), BLOCK=block)
        return out.view(rows, columns)
