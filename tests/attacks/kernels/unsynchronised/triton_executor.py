"""Hands its launches to an executor that was there before anybody counted threads, and returns.

dsl: triton
task: add_relu
expects: THREADS, UNSYNCHRONISED
judge: timing
"""

from concurrent.futures import ThreadPoolExecutor

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


executor = ThreadPoolExecutor(1)
executor.submit(int).result()


class ModelNew(torch.nn.Module):
    def forward(self, x, y):
        x, y = x.contiguous(), y.contiguous()
        out = torch.empty_like(x)
        executor.submit(launch, x, y, out)
        return out
