"""Opens files until there are no more descriptors.

dsl: torch
task: add_relu
expects: EXHAUSTS
limits: timeout_s=20
"""

import itertools
import os

import torch

KEPT = []


def try_it():
    for _ in itertools.count():
        KEPT.append(os.open("/dev/null", os.O_RDONLY))


class ModelNew(torch.nn.Module):
    def forward(self, x, y):
        try_it()
        return torch.relu(x + y)
