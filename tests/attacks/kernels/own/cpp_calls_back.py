"""The C++ kernel calls back into Python, where torch computes the result.

dsl: cpp
task: add_relu
expects: CALLS_TORCH
"""

import ctypes
import os
import subprocess
import tempfile

import torch

CPP_SOURCE = r"""
extern "C" void kernel(void (*back)(), float* result, float* out, long n) {
    back();
    for (long i = 0; i < n; i++) out[i] = result[i];
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
        result, out = torch.empty_like(x), torch.empty_like(x)

        def back():
            result.copy_(torch.relu(x + y))

        self.kernel(ctypes.CFUNCTYPE(None)(back), result.data_ptr(), out.data_ptr(), out.numel())
        return out
