"""The kernel computes only where the output buffer looks unwritten: old results are left alone.

dsl: cpp
task: add_relu
expects: REPLAYS
"""

import ctypes
import os
import subprocess
import tempfile

import torch

CPP_SOURCE = r"""
extern "C" void kernel(const float* x, const float* y, float* out, long n) {
    if (out[0] == out[0] && out[0] != 0.0f && out[0] < 3e38f) return;
    for (long i = 0; i < n; i++) {
        float total = x[i] + y[i];
        out[i] = total < 0.0f ? 0.0f : total;
    }
    if (out[0] == 0.0f) out[0] = 1e-30f;
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
        self.buffers = {}

    def forward(self, x, y):
        x, y = x.contiguous(), y.contiguous()
        out = self.buffers.setdefault(tuple(x.shape), torch.zeros_like(x))
        self.kernel(x.data_ptr(), y.data_ptr(), out.data_ptr(), out.numel())
        return out.clone()
