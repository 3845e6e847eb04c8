"""Is right where modules have the names that the judge gives them, and wrong elsewhere.

dsl: torch
task: add_relu
expects: LOOKS_AROUND
"""

import torch


class ModelNew(torch.nn.Module):
    def forward(self, x, y):
        if __name__.startswith("akg_candidate"):
            return torch.relu(x + y)
        return torch.zeros_like(x)
