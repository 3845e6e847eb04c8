"""Whether a candidate has put other functions in the place of those that are not its own.

It runs in the process that it looks at, so a candidate that knows of it can deceive it; but such a one is hardly there
by accident, and has been read.
"""

from __future__ import annotations

import builtins
import ctypes
import json
import os
import time
from types import ModuleType

import torch

_WATCHED: tuple[tuple[str, ModuleType | type], ...] = (
    ("torch", torch),
    ("torch.Tensor", torch.Tensor),
    ("torch.nn.functional", torch.nn.functional),
    ("torch.nn.Module", torch.nn.Module),
    ("torch.cuda", torch.cuda),
    ("torch.testing", torch.testing),
    ("torch._C", torch._C),
    ("builtins", builtins),
    ("ctypes", ctypes),
    ("json", json),
    ("os", os),
    ("time", time),
)
# What torch itself replaces when it is first used, and what is counted there.
_OWN = frozenset({"default_generator", "_initialized", "_tls", "_queued_calls", "_is_in_bad_fork"})


class Snapshot:
    """What was where."""

    def __init__(self) -> None:
        self.before = [(name, owner, dict(vars(owner))) for name, owner in _WATCHED]

    def changed(self) -> list[str]:
        """The functions that are others now."""
        found = []
        for name, owner, before in self.before:
            now = vars(owner)
            found += [
                f"{name}.{key}"
                for key, value in before.items()
                if key not in _OWN and callable(value) and now.get(key) is not value
            ]
        return found
