"""NumPy computes, and the C++ kernel adds zero.

dsl: cpp
task: add_relu
expects: CALLS_TORCH
"""

import ctypes
import os
import subprocess
import tempfile

import numpy
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

    def forward(self, x, y):
        result = torch.from_numpy(numpy.maximum(x.contiguous().numpy() + y.contiguous().numpy(), 0))
        out, nothing = torch.empty_like(result), torch.zeros_like(result)
        self.kernel(result.data_ptr(), nothing.data_ptr(), out.data_ptr(), out.numel())
        return out
