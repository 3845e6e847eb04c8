"""Hangs where it is built, before any input is there.

dsl: torch
task: add_relu
expects: EXHAUSTS
limits: build_timeout_s=2
"""

import time

import torch


def try_it():
    pass


time.sleep(3600)


class ModelNew(torch.nn.Module):
    def forward(self, x, y):
        try_it()
        return torch.relu(x + y)
