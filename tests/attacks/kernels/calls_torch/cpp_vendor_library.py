"""Looks for a BLAS in the process, and has it compute the product.

dsl: cpp
task: linear_relu
expects: CALLS_TORCH, HIDES_CALLS, BUILD_FAILED
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


def sgemm():
    folder = os.path.join(os.path.dirname(torch.__file__), "lib")
    function = ctypes.CDLL(os.path.join(folder, "libtorch_cpu.so")).cblas_sgemm
    function.argtypes = [ctypes.c_int] * 6 + [
        ctypes.c_float,
        ctypes.c_void_p,
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_int,
        ctypes.c_float,
        ctypes.c_void_p,
        ctypes.c_int,
    ]
    return function


class ModelNew(torch.nn.Module):
    def __init__(self, n_in, n_out):
        super().__init__()
        self.linear = torch.nn.Linear(n_in, n_out)
        self.product, self.kernel = sgemm(), load()

    def forward(self, x):
        x, w, bias = x.contiguous(), self.linear.weight, self.linear.bias
        (m, k), n = x.shape, w.shape[0]
        out = torch.empty(m, n)
        self.product(101, 111, 112, m, n, k, 1.0, x.data_ptr(), k, w.data_ptr(), k, 0.0, out.data_ptr(), n)
        self.kernel(out.data_ptr(), bias.data_ptr(), m, n)
        return out
