"""Slow for every size but the largest, which alone decides an arithmetic mean of times.

dsl: cpp
task: softmax_dynamic
expects: RIGHT
judge: timing
"""

import ctypes
import os
import subprocess
import tempfile

import torch

CPP_SOURCE = r"""
#include <math.h>
static void wait_us(long us) { for (volatile long i = 0; i < 500 * us; i++) {} }
extern "C" void kernel(const float* x, float* out, long rows, long columns) {
    if (rows * columns < 2112) wait_us(1000);
    for (long r = 0; r < rows; r++) {
        const float* a = x + r * columns;
        float* b = out + r * columns;
        float largest = -INFINITY;
        double sum = 0.0;
        for (long i = 0; i < columns; i++) largest = a[i] > largest || a[i] != a[i] ? a[i] : largest;
        for (long i = 0; i < columns; i++) sum += b[i] = expf(a[i] - largest);
        for (long i = 0; i < columns; i++) b[i] = b[i] / sum;
    }
}
"""


def load():
    folder = tempfile.mkdtemp()
    source, library = os.path.join(folder, "kernel.cpp"), os.path.join(folder, "kernel.so")
    with open(source, "w") as f:
        f.write(CPP_SOURCE)
    subprocess.run(["g++", "-O2", "-march=native", "-shared", "-fPIC", source, "-o", library], check=True)
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
