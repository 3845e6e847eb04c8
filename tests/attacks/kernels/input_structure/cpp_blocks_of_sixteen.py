"""Has no tail: the columns of the example are a multiple of sixteen.

dsl: cpp
task: softmax_dynamic
expects: SHAPE
"""

import ctypes
import os
import subprocess
import tempfile

import torch

CPP_SOURCE = r"""
#include <math.h>
extern "C" void kernel(const float* x, float* out, long rows, long columns) {
    long whole = columns / 16 * 16;
    for (long i = 0; i < rows; i++) {
        const float* row = x + i * columns;
        float most = -INFINITY, total = 0.0f;
        for (long j = 0; j < whole; j++) most = row[j] > most || row[j] != row[j] ? row[j] : most;
        for (long j = 0; j < whole; j++) total += out[i * columns + j] = expf(row[j] - most);
        for (long j = 0; j < whole; j++) out[i * columns + j] /= total;
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
