"""An exponential by a polynomial of four terms, as fast as it is coarse.

dsl: cpp
task: softmax
expects: PRECISION
"""

import ctypes
import os
import subprocess
import tempfile

import torch

CPP_SOURCE = r"""
#include <math.h>
static inline float coarse_exp(float x) {
    if (x < -87.0f) return 0.0f;
    float k = floorf(x * 1.44269504f + 0.5f), r = x - k * 0.69314718f;
    return ldexpf(1.0f + r * (1.0f + r * (0.5f + r * 0.16666667f)), (int)k);
}
extern "C" void kernel(const float* x, float* out, long rows, long columns) {
    for (long i = 0; i < rows; i++) {
        const float* row = x + i * columns;
        float most = -INFINITY, total = 0.0f;
        for (long j = 0; j < columns; j++) most = row[j] > most || row[j] != row[j] ? row[j] : most;
        for (long j = 0; j < columns; j++) total += out[i * columns + j] = coarse_exp(row[j] - most);
        for (long j = 0; j < columns; j++) out[i * columns + j] /= total;
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


class ModelNew(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.kernel = load()

    def forward(self, x):
        x = x.contiguous()
        out = torch.empty_like(x)
        self.kernel(x.data_ptr(), out.data_ptr(), x.shape[0], x.shape[1])
        return out
