"""Writes one file as long as there is room.

dsl: torch
task: add_relu
expects: EXHAUSTS
limits: timeout_s=60
"""

import tempfile

import torch


def try_it():
    with tempfile.NamedTemporaryFile() as file:
        while True:
            file.write(bytes(1 << 24))


class ModelNew(torch.nn.Module):
    def forward(self, x, y):
        try_it()
        return torch.relu(x + y)
