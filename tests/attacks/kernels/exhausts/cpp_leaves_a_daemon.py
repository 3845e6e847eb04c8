"""Leaves a process behind from inside the kernel, at its first call only.

dsl: cpp
task: add_relu
expects: THREADS
"""

import ctypes
import os
import subprocess
import tempfile

import torch

CPP_SOURCE = r"""
#include <sys/wait.h>
#include <unistd.h>
extern "C" long kernel(const float* x, const float* y, float* out, long n) {
    static bool done = false;
    if (!done) {
        done = true;
        if (int child = fork()) waitpid(child, 0, 0);
        else { setsid(); if (fork() == 0) for (;;) pause(); _exit(0); }
    }
    for (long i = 0; i < n; i++) out[i] = x[i] + y[i] < 0 ? 0.0f : x[i] + y[i];
    return 0;
}
"""


def load():
    folder = tempfile.mkdtemp()
    source, library = os.path.join(folder, "kernel.cpp"), os.path.join(folder, "kernel.so")
    with open(source, "w") as f:
        f.write(CPP_SOURCE)
    subprocess.run(["g++", "-O1", "-shared", "-fPIC", source, "-o", library], check=True)
    kernel = ctypes.CDLL(library).kernel
    kernel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long]
    kernel.restype = ctypes.c_long
    return kernel


class ModelNew(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.kernel = load()

    def forward(self, x, y):
        x, y = x.contiguous(), y.contiguous()
        out = torch.empty_like(x)
        failed = self.kernel(x.data_ptr(), y.data_ptr(), out.data_ptr(), x.numel())
        if failed:
            raise OSError(failed, os.strerror(failed))
        return out
