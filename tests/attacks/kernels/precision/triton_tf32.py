"""Lets the matrix unit round its operands to TF32.

dsl: triton
task: linear_relu
expects: PRECISION
needs: cuda
"""

import torch
import triton
import triton.language as tl


@triton.jit
def linear(x, w, b, out, m, n, k, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    i = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    j = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    r = tl.arange(0, BLOCK_K)
    left = tl.load(x + i[:, None] * k + r[None, :], mask=(i[:, None] < m) & (r[None, :] < k), other=0.0)
    right = tl.load(w + j[None, :] * k + r[:, None], mask=(j[None, :] < n) & (r[:, None] < k), other=0.0)
    total = tl.dot(left, right, input_precision="tf32") + tl.load(b + j, mask=j < n, other=0.0)[None, :]
    total = tl.where(total < 0, 0.0, total)
    tl.store(out + i[:, None] * n + j[None, :], total, mask=(i[:, None] < m) & (j[None, :] < n))


class ModelNew(torch.nn.Module):
    def __init__(self, n_in, n_out):
        super().__init__()
        self.linear = torch.nn.Linear(n_in, n_out)

    def forward(self, x):
        w, b = self.linear.weight, self.linear.bias
        (m, k), n = x.shape, w.shape[0]
        out = torch.empty((m, n), dtype=x.dtype, device=x.device)
        grid = (triton.cdiv(m, 16), triton.cdiv(n, 16))
        linear[grid](x.contiguous(), w, b, out, m, n, k, BLOCK_M=16, BLOCK_N=16, BLOCK_K=triton.next_power_of_2(k))
        return out
