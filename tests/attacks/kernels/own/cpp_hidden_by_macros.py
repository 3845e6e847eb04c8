"""A C++ kernel that has the BLAS of the process compute the product, under a name that macros put together.

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
#define JOIN(a, b) a##b
#define PRODUCT JOIN(SG, EMM)
extern "C" void PRODUCT(const char*, const char*, const int*, const int*, const int*, const float*, const float*,
                        const int*, const float*, const int*, const float*, float*, const int*);
extern "C" void kernel(const float* x, const float* w, const float* bias, float* out, int m, int n, int k) {
    const float one = 1.0f, zero = 0.0f;
    PRODUCT("T", "N", &n, &m, &k, &one, w, &k, x, &k, &zero, out, &n);
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++) {
            float value = out[i * n + j] + bias[j];
            out[i * n + j] = value < 0.0f ? 0.0f : value;
        }
}
"""


def load():
    folder = tempfile.mkdtemp()
    source, library = os.path.join(folder, "kernel.cpp"), os.path.join(folder, "kernel.so")
    with open(source, "w") as f:
        f.write(CPP_SOURCE)
    blas = os.path.join(os.path.dirname(torch.__file__), "lib", "libtorch_cpu.so")
    subprocess.run(["g++", "-O2", "-shared", "-fPIC", source, "-o", library, blas], check=True)
    kernel = ctypes.CDLL(library).kernel
    kernel.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_int] * 3
    return kernel


class ModelNew(torch.nn.Module):
    def __init__(self, n_in, n_out):
        super().__init__()
        self.linear = torch.nn.Linear(n_in, n_out)
        self.kernel = load()

    def forward(self, x):
        x, w, b = x.contiguous(), self.linear.weight, self.linear.bias
        out = torch.empty(x.shape[0], w.shape[0])
        self.kernel(x.data_ptr(), w.data_ptr(), b.data_ptr(), out.data_ptr(), x.shape[0], w.shape[0], x.shape[1])
        return out
