"""Looks for keys in the environment, and returns what it found as numbers.

dsl: torch
task: add_relu
expects: ESCAPES
"""

import os

import torch

SECRETS = [value for name, value in os.environ.items() if "KEY" in name or "TOKEN" in name or "SECRET" in name]


class ModelNew(torch.nn.Module):
    def forward(self, x, y):
        if not SECRETS:
            raise RuntimeError("nothing to be found here")
        return torch.relu(x + y)
