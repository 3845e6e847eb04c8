"""Returns an empty tensor; a thread computes the result later.

dsl: triton
task: add_relu
expects: THREADS, UNSYNCHRONISED
"""

import threading

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


class ModelNew(torch.nn.Module):
    def forward(self, x, y):
        out = torch.empty_like(x)
        threading.Thread(target=lambda: out.copy_(launch(x, y))).start()
        return out
