"""What looks like a kernel calls a Python function, which an interpreter runs: torch computes there.

dsl: triton
task: add_relu
expects: CALLS_TORCH
needs: interpreter
"""

import torch
import triton
import triton.language as tl

state = {}


def compute():
    return torch.relu(state["x"] + state["y"])


@triton.jit
def kernel(out, n, BLOCK: tl.constexpr):
    state["out"].copy_(compute())
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(out + i, mask=i < n), mask=i < n)


class ModelNew(torch.nn.Module):
    def forward(self, x, y):
        out = torch.empty_like(x)
        state.update(x=x, y=y, out=out)
        kernel[(1,)](out, out.numel(), BLOCK=triton.next_power_of_2(out.numel()))
        return out
