"""Leaves the device busy when it returns, so that whoever is timed after it has to share it.

dsl: triton
task: add_relu
needs: cuda
expects: UNSYNCHRONISED, RIGHT
judge: timing
"""

import torch
import triton
import triton.language as tl


@triton.jit
def add_relu(x, y, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.load(x + i, mask=i < n) + tl.load(y + i, mask=i < n)
    tl.store(out + i, tl.where(total < 0, 0.0, total), mask=i < n)


def launch(x, y, out):
    n = out.numel()
    add_relu[(triton.cdiv(n, 1024),)](x, y, out, n, BLOCK=1024)


class ModelNew(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.stream = None

    def forward(self, x, y):
        x, y = x.contiguous(), y.contiguous()
        out = torch.empty_like(x)
        launch(x, y, out)
        launch(x, y, out)
        self.stream = self.stream or torch.cuda.Stream()
        with torch.cuda.stream(self.stream):
            torch.cuda._sleep(10_000)
        return out
