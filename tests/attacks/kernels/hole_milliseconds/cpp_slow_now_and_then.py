"""Every hundredth call pays for all: a run of few calls is unlikely to meet it.

dsl: cpp
task: add_relu
expects: RIGHT
judge: timing
"""

import ctypes
import os
import subprocess
import tempfile

import torch

CPP_SOURCE = r"""
static void wait_us(long us) { for (volatile long i = 0; i < 500 * us; i++) {} }
static long calls = 0;
extern "C" void kernel(const float* x, const float* y, float* out, long n) {
    if (++calls % 100 == 0) wait_us(20000);
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

    def forward(self, x, y):
        x, y = x.contiguous(), y.contiguous()
        out = torch.empty_like(x)
        self.kernel(x.data_ptr(), y.data_ptr(), out.data_ptr(), out.numel())
        return out
