"""Makes a link to a file that it may not read in its own folder, and reads that.

dsl: torch
task: add_relu
expects: ESCAPES
"""

import os
import tempfile

import torch


def try_it():
    link = os.path.join(tempfile.mkdtemp(), "link")
    for target in ("/etc/shadow", "/etc/ssh", "/etc/hostname"):
        if os.path.exists(target):
            os.symlink(target, link)
            open(link, "rb").close()


class ModelNew(torch.nn.Module):
    def forward(self, x, y):
        try_it()
        return torch.relu(x + y)
