"""Returns the constant that sums of a softmax are.

dsl: torch
task: sum_of_softmax
expects: DEGENERATE
"""

import torch


class ModelNew(torch.nn.Module):
    def forward(self, x):
        return torch.ones(x.shape[0], device=x.device)
