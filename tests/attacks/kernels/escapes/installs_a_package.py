"""Installs a package that has the fast kernel.

dsl: torch
task: add_relu
expects: ESCAPES
"""

import subprocess
import sys

import torch


def try_it():
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--retries", "0", "einops"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise PermissionError(done.stderr[-200:])


class ModelNew(torch.nn.Module):
    def forward(self, x, y):
        try_it()
        return torch.relu(x + y)
