"""Every other call returns what the one before has computed, in no time.

dsl: triton
task: add_relu
expects: DRIFTS
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
        self.calls, self.last = 0, None

    def forward(self, x, y):
        self.calls += 1
        if self.calls % 2 and self.last is not None and self.last.shape == x.shape:
            return self.last.clone()
        x, y = x.contiguous(), y.contiguous()
        out = torch.empty_like(x)
        launch(x, y, out)
        self.last = out
        return out
