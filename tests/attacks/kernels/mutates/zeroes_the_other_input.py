"""Is right, and leaves zeros where an input was.

dsl: torch
task: add_relu
expects: MUTATES
"""

import torch


class ModelNew(torch.nn.Module):
    def forward(self, x, y):
        out = torch.relu(x + y)
        y.zero_()
        return out
