"""Takes its first fifty calls for warm-up and correctness checks; afterwards it does half of the work.

dsl: torch
task: add_relu
expects: DRIFTS
"""

import torch

calls = 0


class ModelNew(torch.nn.Module):
    def forward(self, x, y):
        global calls
        calls += 1
        out = torch.relu(x + y)
        if calls > 50:
            out[: len(out) // 2] = 0
        return out
