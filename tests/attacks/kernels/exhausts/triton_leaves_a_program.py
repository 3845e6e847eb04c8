"""Leaves a program running that outlives it.

dsl: triton
task: add_relu
expects: THREADS, ESCAPES
"""

import subprocess

import torch
import triton
import triton.language as tl


@triton.jit
def kernel(x_ptr, y_ptr, out_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    total = tl.load(x_ptr + at, mask=inside) + tl.load(y_ptr + at, mask=inside)
    tl.store(out_ptr + at, tl.where(total < 0, 0.0, total), mask=inside)


STARTED = []


def try_it():
    if not STARTED:
        STARTED.append(subprocess.Popen(["sleep", "3600"], start_new_session=True))


class ModelNew(torch.nn.Module):
    def forward(self, x, y):
        try_it()
        x, y = x.contiguous(), y.contiguous()
        out = torch.empty_like(x)
        kernel[(triton.cdiv(x.numel(), 1024),)](x, y, out, x.numel(), BLOCK=1024)
        return out
