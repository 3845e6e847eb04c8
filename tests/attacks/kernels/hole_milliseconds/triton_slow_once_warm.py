"""Sleeps from its hundredth millisecond on: by then a warm-up of 25 ms and a measurement of 100 ms are over.

dsl: triton
task: softmax
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
    def __init__(self):
        super().__init__()
        self.since = None

    def forward(self, x):
        self.since = self.since or time.monotonic()
        if time.monotonic() - self.since > 0.1:
            time.sleep(0.002)
        return launch(x)
