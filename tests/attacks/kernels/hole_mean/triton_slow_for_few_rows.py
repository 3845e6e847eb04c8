"""Waits longer the fewer rows there are: the sizes that count least in an arithmetic mean.

dsl: triton
task: softmax_dynamic
expects: RIGHT, CLOCKS
judge: timing
"""

import time

import torch
import triton
import triton.language as tl


@triton.jit
def softmax(x, out, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    i = tl.arange(0, BLOCK)
    value = tl.load(x + row * columns + i, mask=i < columns, other=-float("inf"))
    power = tl.exp(value - tl.max(value, 0))
    tl.store(out + row * columns + i, power / tl.sum(power, 0), mask=i < columns)


def launch(x):
    x = x.contiguous()
    out = torch.empty_like(x)
    softmax[(x.shape[0],)](x, out, x.shape[1], BLOCK=triton.next_power_of_2(x.shape[1]))
    return out


class ModelNew(torch.nn.Module):
    def forward(self, x):
        if x.shape[0] < 30:
            time.sleep(0.001)
        return launch(x)
