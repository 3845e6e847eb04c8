"""A softmax over rows, of several sizes."""

import torch


class Model(torch.nn.Module):
    def forward(self, x):
        return torch.softmax(x, dim=-1)


def get_init_inputs():
    return []


def get_inputs_dyn_list():
    return [[torch.randn(rows, columns)] for rows, columns in ((16, 96), (3, 300), (33, 64))]
