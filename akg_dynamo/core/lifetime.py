"""A process that ends when the one that started it does, also amid work that listens to nobody."""

from __future__ import annotations

import ctypes
import os
import signal

OUTSIDE = 0
"""The parent of the first process of a process namespace, as that sees it."""
_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Be killed when the thread that started this process ends; end at once if `parent`, its process, has already."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() not in (parent, OUTSIDE):  # it died before the call
        os._exit(0)
