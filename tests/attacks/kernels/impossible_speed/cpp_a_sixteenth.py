"""After a thousand calls it computes a sixteenth of the elements, and leaves the rest as they lie in its own buffer.

dsl: cpp
task: add_relu
expects: DRIFTS, REPLAYS
judge: timing
"""

import ctypes
import os
import subprocess
import tempfile

import torch

CPP_SOURCE = r"""
static long calls = 0;
extern "C" void kernel(const float* x, const float* y, float* out, long n) {
    long some = ++calls > 1000 ? n / 16 : n;
    for (long i = 0; i < some; i++) {
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
        self.out = torch.empty(0)

    def forward(self, x, y):
        x, y = x.contiguous(), y.contiguous()
        if self.out.shape != x.shape:
            self.out = torch.empty_like(x)
        out = self.out
        self.kernel(x.data_ptr(), y.data_ptr(), out.data_ptr(), out.numel())
        return out
