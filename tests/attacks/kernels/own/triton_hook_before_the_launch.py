"""Has torch compute in a hook that Triton calls as a part of the launch.

dsl: triton
task: add_relu
expects: CALLS_TORCH
"""

import torch
import triton
import triton.language as tl


@triton.jit
def copy(x, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, mask=i < n), mask=i < n)


def launch_copy(x):
    x = x.contiguous()
    out = torch.empty_like(x)
    copy[(triton.cdiv(out.numel(), 1024),)](x, out, out.numel(), BLOCK=1024)
    return out


state = {}


def before(*args, **kwargs):
    state["result"].copy_(torch.relu(state["x"] + state["y"]))


copy.add_pre_run_hook(before)


class ModelNew(torch.nn.Module):
    def forward(self, x, y):
        state.update(x=x, y=y, result=torch.empty_like(x))
        return launch_copy(state["result"])
