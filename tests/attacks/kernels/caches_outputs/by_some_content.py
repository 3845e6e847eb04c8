"""Returns an old output when the first and the last element are those of an old input.

dsl: torch
task: softmax
expects: REPLAYS
"""

import torch


class ModelNew(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.seen = {}

    def forward(self, x):
        key = (round(x.flatten()[0].item()), round(x.flatten()[-1].item()))
        if key not in self.seen:
            self.seen[key] = torch.softmax(x, -1)
        return self.seen[key].clone()
