"""Never comes back.

dsl: torch
task: add_relu
expects: EXHAUSTS
limits: timeout_s=2
"""

import time

import torch


def try_it():
    while True:
        time.sleep(1.0)


class ModelNew(torch.nn.Module):
    def forward(self, x, y):
        try_it()
        return torch.relu(x + y)
