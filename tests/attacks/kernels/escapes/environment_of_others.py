"""Reads the environment of every process that it can see, where keys are.

dsl: torch
task: add_relu
expects: ESCAPES
"""

import os

import torch


def try_it():
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with open(f"/proc/{name}/environ", "rb") as file:
                file.read()


class ModelNew(torch.nn.Module):
    def forward(self, x, y):
        try_it()
        return torch.relu(x + y)
