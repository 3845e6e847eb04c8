"""Slows torch down for everybody: one thread, no vector units, no fused kernels; and is as slow as eager itself.

dsl: torch
task: softmax
expects: PATCHES, RIGHT
judge: timing
"""

import os

import torch

os.environ["ATEN_CPU_CAPABILITY"] = "default"
torch.set_num_threads(1)
torch.set_flush_denormal(False)
torch.backends.mkldnn.enabled = False


class ModelNew(torch.nn.Module):
    def forward(self, x):
        power = torch.exp(x - x.amax(-1, keepdim=True))
        return power / power.sum(-1, keepdim=True)
