"""Returns zeros for a task whose outputs are all zero.

dsl: torch
task: mean_of_one_column
expects: DEGENERATE
"""

import torch


class ModelNew(torch.nn.Module):
    def forward(self, x):
        return torch.zeros(x.shape[0], 1, device=x.device)
