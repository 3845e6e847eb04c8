"""Judges of several processes on one device: values side by side, timings alone.

A lock of the file system, which nobody holds longer than they live. Whoever does not get it in time goes on without: a
timing beside others is worse than one alone, and better than none.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_POLL_S = 0.002


def lock_path(device_name: str) -> Path:
    """The file of that device, shared by all users of the machine."""
    return Path(tempfile.gettempdir()) / f"akg-{device_name}.lock"


@contextmanager
def device_lock(path: Path, *, alone: bool, timeout_s: float) -> Iterator[bool]:
    """Hold the lock, `alone` or with others who do not ask to be; whether it was had in time."""
    try:
        # Another user's file can be locked, but not opened for writing.
        fd = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except OSError:
        yield False
        return
    try:
        deadline = time.monotonic() + timeout_s
        while not (held := _try(fd, alone)) and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        yield held
    finally:
        os.close(fd)


def _try(fd: int, alone: bool) -> bool:
    try:
        fcntl.flock(fd, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
