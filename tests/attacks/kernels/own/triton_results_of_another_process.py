"""Writes its outputs into a file, and takes them from there when a new process asks again.

dsl: triton
task: add_relu
expects: ESCAPES
"""

import hashlib
import os

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


FOLDER = "/tmp/akg-results"


class ModelNew(torch.nn.Module):
    def forward(self, x, y):
        os.makedirs(FOLDER, exist_ok=True)
        name = hashlib.sha256(repr(x.shape).encode()).hexdigest()
        path = os.path.join(FOLDER, name)
        if os.path.exists(path):
            return torch.load(path)
        out = launch(x, y)
        torch.save(out, path)
        return out
