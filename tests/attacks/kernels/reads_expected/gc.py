"""Looks through all objects for a tensor of the shape of the output that is not an input.

dsl: torch
task: softmax
expects: LOOKS_AROUND, CONSTANT
"""

import gc

import torch


class ModelNew(torch.nn.Module):
    def forward(self, x):
        for thing in gc.get_objects():
            if isinstance(thing, torch.Tensor) and thing.shape == x.shape and thing.data_ptr() != x.data_ptr():
                return thing.clone()
        return torch.zeros_like(x)
