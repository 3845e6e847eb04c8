"""Captures its launches in a CUDA graph for each shape, and replays it on buffers of its own.

dsl: triton
task: add_relu
needs: cuda
"""

import torch
import triton
import triton.language as tl


@triton.jit
def add_relu(x, y, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.load(x + i, mask=i < n) + tl.load(y + i, mask=i < n)
    tl.store(out + i, tl.where(total < 0, 0.0, total), mask=i < n)


def launch(x, y):
    x, y = x.contiguous(), y.contiguous()
    out = torch.empty_like(x)
    n = out.numel()
    add_relu[(triton.cdiv(n, 1024),)](x, y, out, n, BLOCK=1024)
    return out


class ModelNew(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.graphs = {}

    def forward(self, x, y):
        shape = tuple(x.shape)
        if shape not in self.graphs:
            xs, ys = torch.empty_like(x), torch.empty_like(y)
            launch(xs, ys)  # compiles it
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                out = launch(xs, ys)
            self.graphs[shape] = graph, xs, ys, out
        graph, xs, ys, out = self.graphs[shape]
        xs.copy_(x)
        ys.copy_(y)
        graph.replay()
        return out
