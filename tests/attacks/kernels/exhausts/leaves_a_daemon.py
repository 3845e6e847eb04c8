"""Leaves a process behind that is nobody's child and in a session of its own.

dsl: torch
task: add_relu
expects: THREADS
"""

import os
import time

import torch


def try_it():
    child = os.fork()
    if child == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(3600)
        os._exit(0)
    os.waitpid(child, 0)


class ModelNew(torch.nn.Module):
    def forward(self, x, y):
        try_it()
        return torch.relu(x + y)
