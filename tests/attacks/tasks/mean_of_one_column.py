"""What is left of a maximum when its own mean is taken off: zeros. KernelBench has such tasks."""

import torch


class Model(torch.nn.Module):
    def forward(self, x):
        x = torch.max(x, dim=1, keepdim=True).values
        return torch.nn.functional.gelu(x - x.mean(dim=1, keepdim=True))


def get_init_inputs():
    return []


def get_inputs():
    return [torch.randn(32, 64)]
