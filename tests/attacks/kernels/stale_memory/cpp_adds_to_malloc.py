"""Adds up in memory from malloc that it never cleared.

dsl: cpp
task: row_sum
expects: STALE_MEMORY, DRIFTS
"""

import ctypes
import os
import subprocess
import tempfile

import torch

CPP_SOURCE = r"""
#include <stdlib.h>
extern "C" void kernel(const float* x, float* out, long rows, long columns) {
    float* total = (float*)malloc(rows * sizeof(float));
    for (long i = 0; i < rows; i++) {
        for (long j = 0; j < columns; j++) total[i] += x[i * columns + j];
        out[i] = total[i];
    }
    free(total);
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
        out = torch.empty(x.shape[0], dtype=x.dtype)
        self.kernel(x.data_ptr(), out.data_ptr(), *x.shape)
        return out
