"""A thread that starts with the library takes the work from a queue; the call only puts it there.

dsl: cpp
task: add_relu
expects: THREADS, UNSYNCHRONISED, DRIFTS
judge: timing
"""

import ctypes
import os
import subprocess
import tempfile

import torch

CPP_SOURCE = r"""
#include <condition_variable>
#include <mutex>
#include <queue>
#include <thread>
struct Work { const float *x, *y; float* out; long n; };
static std::queue<Work> todo;
static std::mutex lock;
static std::condition_variable some;
static void work() {
    for (;;) {
        std::unique_lock<std::mutex> held(lock);
        some.wait(held, [] { return !todo.empty(); });
        Work w = todo.front();
        todo.pop();
        held.unlock();
        for (long i = 0; i < w.n; i++) {
            float total = w.x[i] + w.y[i];
            w.out[i] = total < 0.0f ? 0.0f : total;
        }
    }
}
static std::thread* thread = new std::thread(work);
extern "C" void kernel(const float* x, const float* y, float* out, long n) {
    { std::lock_guard<std::mutex> held(lock); todo.push({x, y, out, n}); }
    some.notify_one();
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

    def forward(self, x, y):
        x, y = x.contiguous(), y.contiguous()
        out = torch.empty_like(x)
        self.kernel(x.data_ptr(), y.data_ptr(), out.data_ptr(), out.numel())
        return out
