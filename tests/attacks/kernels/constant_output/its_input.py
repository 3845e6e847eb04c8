"""Returns a copy of its input.

dsl: torch
task: softmax
expects: CONSTANT
"""

import torch


class ModelNew(torch.nn.Module):
    def forward(self, x):
        return x.clone()
