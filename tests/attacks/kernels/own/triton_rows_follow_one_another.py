"""Rows follow one another: right as long as its input is contiguous, and nothing is said when it is not.

dsl: triton
task: softmax
expects: SHAPE
"""

import torch
import triton
import triton.language as tl


@triton.jit
def softmax(x, out, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    j = tl.arange(0, BLOCK)
    values = tl.load(x + row * columns + j, mask=j < columns, other=-float("inf"))
    powers = tl.exp(values - tl.max(values, 0))
    tl.store(out + row * columns + j, powers / tl.sum(powers, 0), mask=j < columns)


def launch(x):
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    softmax[(x.shape[0],)](x, out, x.shape[1], BLOCK=triton.next_power_of_2(x.shape[1]))
    return out


class ModelNew(torch.nn.Module):
    def forward(self, x):
        return launch(x)
