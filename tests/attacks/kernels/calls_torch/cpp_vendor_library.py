"""Looks for a BLAS in the process, and has it compute the product.

dsl: cpp
task: linear_relu
expects: CALLS_TORCH
"""

import ctypes
import os
import subprocess
import tempfile

import torch

CPP_SOURCE = r"""
extern "C" void kernel(float* out, const float* bias, long rows, long columns) {
    for (long i = 0; i < rows; i++)
        for (long j = 0; j < columns; j++) {
            float value = out[i * columns + j] + bias[j];
            out[i * columns + j] = value < 0.0f ? 0.0f : value;
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
    kernel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long, ctypes.c_long]
    return kernel


def product(x, w):
    """x @ w.T by the BLAS that torch has linked in."""
    library = ctypes.CDLL(os.path.join(os.path.dirname(torch.__file__), "lib", "libtorch_cpu.so"))
    (m, k), n = x.shape, w.shape[0]
    out = torch.empty(m, n)
    size = [ctypes.byref(ctypes.c_int(v)) for v in (n, m, k, k, k, n)]
    one, zero = ctypes.byref(ctypes.c_float(1.0)), ctypes.byref(ctypes.c_float(0.0))
    a, b, c = (ctypes.c_void_p(t.data_ptr()) for t in (w, x, out))
    library.SGEMM(b"T", b"N", size[0], size[1], size[2], one, a, size[3], b, size[4], zero, c, size[5])
    return out


class ModelNew(torch.nn.Module):
    def __init__(self, n_in, n_out):
        super().__init__()
        self.linear = torch.nn.Linear(n_in, n_out)
        self.kernel = load()

    def forward(self, x):
        out = product(x.contiguous(), self.linear.weight)
        self.kernel(out.data_ptr(), self.linear.bias.data_ptr(), out.shape[0], out.shape[1])
        return out
