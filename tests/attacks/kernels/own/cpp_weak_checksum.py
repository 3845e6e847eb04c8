"""Keeps its last output, and computes only when a checksum of a few elements has changed.

dsl: cpp
task: add_relu
expects: REPLAYS
"""

import ctypes
import os
import subprocess
import tempfile

import torch

CPP_SOURCE = r"""
static float seen = -1.0f;
static long size = -1;
extern "C" void kernel(const float* x, const float* y, float* out, long n) {
    float sum = n ? (float)(int)x[n / 2] : 0.0f;
    if (sum == seen && n == size) return;
    seen = sum;
    size = n;
    for (long i = 0; i < n; i++) {
        float total = x[i] + y[i];
        out[i] = total < 0.0f ? 0.0f : total;
    }
}
"""


def load():
    folder = tempfile.mkdtemp()
    source, library = os.path.join(folder, "kernel.cpp"), os.path.join(folder, "kernel.so")
    with open(source, "w") as f:
        f.write(CPP_SOURCE)
    subprocess.run(["g++", "-O2", "-shared", "-fPIC", source, "-o", library], check=True)
    kernel = ctypes.CDLL(library).kernel
    kernel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long]
    return kernel


class ModelNew(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.kernel = load()
        self.out = None

    def forward(self, x, y):
        x, y = x.contiguous(), y.contiguous()
        if self.out is None or self.out.shape != x.shape:
            self.out = torch.empty_like(x)
        self.kernel(x.data_ptr(), y.data_ptr(), self.out.data_ptr(), self.out.numel())
        return self.out
