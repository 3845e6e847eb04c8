"""Works in place in a buffer of its own, and returns that buffer each time.

dsl: cpp
task: add_relu
"""

import ctypes
import os
import subprocess
import tempfile

import torch

CPP_SOURCE = r"""
extern "C" void kernel(const float* x, const float* y, float* out, long n) {
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
        self.buffer = None

    def forward(self, x, y):
        if self.buffer is None or self.buffer.shape != x.shape:
            self.buffer = torch.empty_like(x, memory_format=torch.contiguous_format)
        self.buffer.copy_(x)
        y = y.contiguous()
        self.kernel(self.buffer.data_ptr(), y.data_ptr(), self.buffer.data_ptr(), self.buffer.numel())
        return self.buffer
