"""A linear layer and a ReLU: a task with parameters."""

import torch


class Model(torch.nn.Module):
    def __init__(self, n_in, n_out):
        super().__init__()
        self.linear = torch.nn.Linear(n_in, n_out)

    def forward(self, x):
        return torch.relu(self.linear(x))


def get_init_inputs():
    return [48, 40]


def get_inputs():
    return [torch.randn(16, 48)]
