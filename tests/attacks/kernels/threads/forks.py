"""Forks a child that spins, so that whoever is timed beside it is slow.

dsl: torch
task: add_relu
expects: THREADS
judge: timing
"""

import os
import time

import torch


class ModelNew(torch.nn.Module):
    def __init__(self):
        super().__init__()
        if os.fork() == 0:
            until = time.monotonic() + 20
            while time.monotonic() < until:
                pass
            os._exit(0)

    def forward(self, x, y):
        return torch.relu(x + y)
