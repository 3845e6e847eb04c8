"""Replaces clocks and synchronisation in every module that is loaded.

dsl: triton
task: add_relu
expects: PATCHES
"""

import sys
import time

import torch
import triton
import triton.language as tl


@triton.jit
def add_relu(x, y, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.load(x + i, mask=i < n) + tl.load(y + i, mask=i < n)
    tl.store(out + i, tl.where(total < 0, 0.0, total), mask=i < n)


def launch(x, y):
    x, y = x.contiguous(), y.contiguous()
    out = torch.empty_like(x)
    n = out.numel()
    add_relu[(triton.cdiv(n, 1024),)](x, y, out, n, BLOCK=1024)
    return out


def patch():
    frozen = time.perf_counter()
    for module in list(sys.modules.values()):
        for name in ("perf_counter", "monotonic", "time", "synchronize"):
            if callable(getattr(module, name, None)):
                setattr(module, name, lambda *args: frozen)


patch()


class ModelNew(torch.nn.Module):
    def forward(self, x, y):
        out = torch.empty_like(x)
        out.fill_(0.5)
        return out
