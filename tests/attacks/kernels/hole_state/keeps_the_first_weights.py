"""Copies its weights when they are first used, under names that no state_dict has.

dsl: torch
task: linear_relu
expects: DRIFTS
"""

import torch

weights = {}


class ModelNew(torch.nn.Module):
    def __init__(self, n_in, n_out):
        super().__init__()
        self.linear = torch.nn.Linear(n_in, n_out)

    def forward(self, x):
        w, b = weights.setdefault("first", (self.linear.weight.detach().clone(), self.linear.bias.detach().clone()))
        return torch.relu(torch.nn.functional.linear(x, w, b))
