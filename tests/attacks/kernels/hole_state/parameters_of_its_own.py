"""Draws parameters that are not those of the task, and hopes that outputs are near zero anyway.

dsl: torch
task: linear_relu
expects: VALUES
"""

import torch


class ModelNew(torch.nn.Module):
    def __init__(self, n_in, n_out):
        super().__init__()
        self.w = torch.nn.Parameter(torch.randn(n_out, n_in) * 1e-3)

    def forward(self, x):
        return torch.relu(x @ self.w.t())
