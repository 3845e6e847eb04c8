"""Scales its weights in place, and the result back.

dsl: torch
task: linear_relu
expects: MUTATES
"""

import torch


class ModelNew(torch.nn.Module):
    def __init__(self, n_in, n_out):
        super().__init__()
        self.linear = torch.nn.Linear(n_in, n_out)

    def forward(self, x):
        with torch.no_grad():
            self.linear.weight.mul_(2.0)
        out = torch.relu(torch.nn.functional.linear(x, self.linear.weight) / 2.0 + self.linear.bias)
        return out
