"""Forks without end.

dsl: torch
task: add_relu
expects: EXHAUSTS
limits: timeout_s=10
"""

import os
import time

import torch


def try_it():
    while True:
        if os.fork() == 0:
            time.sleep(3600)


class ModelNew(torch.nn.Module):
    def forward(self, x, y):
        try_it()
        return torch.relu(x + y)
