"""Allocates without end.

dsl: torch
task: add_relu
expects: EXHAUSTS
limits: timeout_s=20
"""

import itertools

import torch

KEPT = []


def try_it():
    for _ in itertools.count():
        KEPT.append(torch.ones(1 << 26))


class ModelNew(torch.nn.Module):
    def forward(self, x, y):
        try_it()
        return torch.relu(x + y)
