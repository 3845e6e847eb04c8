"""x * sigmoid(1.702 x), with its gradient: a task with a backward pass."""

import torch

GRADIENTS = True


class Model(torch.nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


def get_init_inputs():
    return []


def get_inputs():
    return [torch.randn(32, 64, requires_grad=True)]
