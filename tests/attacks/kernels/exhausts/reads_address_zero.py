"""Takes its process down.

dsl: torch
task: add_relu
expects: EXHAUSTS
"""

import ctypes

import torch


def try_it():
    ctypes.string_at(0)


class ModelNew(torch.nn.Module):
    def forward(self, x, y):
        try_it()
        return torch.relu(x + y)
