"""Which kernels a process is launching for the first time, written down so that the next process can know.

Each process holds a lock on its own file for as long as it lives; the system drops the lock when it dies. A file that
is not locked and still names kernels was left by a process that never came back from them. (Comparing process ids
instead would be wrong across containers that share a folder, and after a process id is used again.)
"""

from __future__ import annotations

import atexit
import fcntl
import os
import threading
import uuid
from pathlib import Path


class Flights:
    """This process's file in the folder, and the reading of the others'."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._keys: list[str] = []
        self._fd: int | None = None
        self._pid = 0
        self._path = folder
        atexit.register(self.close)

    def add(self, key: str) -> None:
        """`key` is about to be launched."""
        with self._lock:
            self._own_file()
            self._keys.append(key)
            self._write()

    def remove(self, key: str) -> None:
        """`key` came back."""
        with self._lock:
            if key in self._keys and self._pid == os.getpid():
                self._keys.remove(key)
                self._write()

    def close(self) -> None:
        """Normal end: nothing of this process is in flight any more."""
        with self._lock:
            if self._fd is not None and self._pid == os.getpid():
                self._path.unlink(missing_ok=True)
                os.close(self._fd)
            self._fd, self._keys = None, []

    def lost(self) -> list[str]:
        """Keys that a dead process was launching. Each is reported to one caller only."""
        keys: list[str] = []
        for path in self._folder.glob("*.flight"):
            try:
                fd = os.open(path, os.O_RDWR)
            except OSError:
                continue  # its owner, or another reader, removed it meanwhile
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                text = os.pread(fd, 1 << 20, 0).decode(errors="replace")
                keys += [line for line in text.split("\n") if line]
                path.unlink(missing_ok=True)
            except BlockingIOError:
                pass  # alive
            finally:
                os.close(fd)
        return keys

    def _own_file(self) -> None:
        """A forked child must not write into its parent's file: it gets one of its own."""
        if self._fd is not None and self._pid == os.getpid():
            return
        self._pid, self._keys = os.getpid(), []
        self._path = self._folder / f"{self._pid}-{uuid.uuid4().hex[:8]}.flight"
        # locked before it has the name readers look for, or a reader could take it for a dead process's
        hidden = self._path.with_suffix(".new")
        self._fd = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        hidden.rename(self._path)

    def _write(self) -> None:
        assert self._fd is not None
        text = "".join(f"{key}\n" for key in self._keys).encode()
        os.pwrite(self._fd, text, 0)
        os.ftruncate(self._fd, len(text))
