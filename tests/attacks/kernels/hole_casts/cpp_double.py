"""More digits than asked for: a checker that casts calls it right.

dsl: cpp
task: row_sum
expects: FORM
"""

import ctypes
import os
import subprocess
import tempfile

import torch

CPP_SOURCE = r"""
extern "C" void kernel(const float* x, double* out, long rows, long columns) {
    for (long i = 0; i < rows; i++) {
        out[i] = 0.0;
        for (long j = 0; j < columns; j++) out[i] += x[i * columns + j];
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
        rows, columns = x.shape
        out = torch.empty(rows, dtype=torch.float64)
        self.kernel(x.data_ptr(), out.data_ptr(), rows, columns)
        return out
