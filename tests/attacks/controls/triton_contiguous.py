"""A Triton kernel whose wrapper makes its inputs contiguous and flattens them.

dsl: triton
task: add_relu
"""

import torch
import triton
import triton.language as tl


@triton.jit
def add_relu(x, y, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.load(x + i, mask=i < n) + tl.load(y + i, mask=i < n)
    tl.store(out + i, tl.where(total < 0, 0.0, total), mask=i < n)


class ModelNew(torch.nn.Module):
    def forward(self, x, y):
        x, y = x.contiguous(), y.contiguous()
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        n = out.numel()
        add_relu[(triton.cdiv(n, 1024),)](x.view(-1), y.view(-1), out.view(-1), n, BLOCK=1024)
        return out
