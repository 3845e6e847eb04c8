"""Large integers by way of float: off by less than any tolerance for floats.

dsl: cpp
task: large_integers
expects: VALUES
"""

import ctypes
import os
import subprocess
import tempfile

import torch

CPP_SOURCE = r"""
extern "C" void kernel(const long* x, const long* y, long* out, long n) {
    for (long i = 0; i < n; i++) out[i] = (long)((float)x[i] * 1000003.0f + (float)y[i]);
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
        self.kernel(x.data_ptr(), y.data_ptr(), out.data_ptr(), x.numel())
        return out
