"""Leaves a file where the next candidate, or anybody, finds it.

dsl: torch
task: add_relu
expects: ESCAPES
"""

import tempfile

import torch


def try_it():
    for folder in ("/tmp", "/var/tmp", "/dev/shm"):
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(b"expected outputs")


class ModelNew(torch.nn.Module):
    def forward(self, x, y):
        try_it()
        return torch.relu(x + y)
