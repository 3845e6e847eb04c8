"""Lays its weights out anew once, and keeps that.

dsl: triton
task: linear_relu
"""

import torch
import triton
import triton.language as tl


@triton.jit
def linear_relu(x, wt, bias, out, n_in, n_out, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    j = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for k in range(n_in):
        total += tl.load(x + row * n_in + k) * tl.load(wt + k * n_out + j, mask=j < n_out, other=0.0)
    total += tl.load(bias + j, mask=j < n_out, other=0.0)
    tl.store(out + row * n_out + j, tl.where(total < 0, 0.0, total), mask=j < n_out)


class ModelNew(torch.nn.Module):
    def __init__(self, n_in, n_out):
        super().__init__()
        self.linear = torch.nn.Linear(n_in, n_out)
        self.turned = None

    def forward(self, x):
        if self.turned is None:
            self.turned = self.linear.weight.detach().t().contiguous()
        x = x.contiguous()
        (rows, n_in), n_out = x.shape, self.turned.shape[1]
        out = torch.empty((rows, n_out), dtype=x.dtype, device=x.device)
        block = triton.next_power_of_2(n_out)
        linear_relu[(rows,)](x, self.turned, self.linear.bias, out, n_in, n_out, BLOCK=block)
        return out
