"""What a worker is about to do, kept where its parent reads it when the worker hangs, or is gone.

In memory that both share, not sent as messages: one who hangs while it holds the interpreter sends nothing, and a
message before each visit of the clock would wake the parent, which then runs beside what is timed.
"""

from __future__ import annotations

import mmap
import os

_BYTES = 256
_NAMES = {"problem": "the problem's file", "eager": "eager", "inductor": "Inductor", "akg": "AKG"}


class Progress:
    """One line of text in the file behind a descriptor, which need not stay open."""

    def __init__(self, fd: int) -> None:
        self._page = mmap.mmap(fd, _BYTES)

    @staticmethod
    def new_file() -> int:
        """The descriptor of a file for it, in memory only."""
        fd = os.memfd_create("akg-bench-progress")
        os.ftruncate(fd, _BYTES)
        return fd

    def now(self, who: str, what: str) -> None:
        """`who` is "problem" or a contender; `what` goes on from "was"."""
        self._page[:] = f"{who}\n{what}".encode()[:_BYTES].ljust(_BYTES, b"\0")

    @property
    def who(self) -> str:
        """Whose turn it is, or was."""
        return self._last()[0]

    def __str__(self) -> str:
        """As part of a sentence: AKG was being timed."""
        who, what = self._last()
        return f"{_NAMES.get(who, who)} was {what}"

    def _last(self) -> tuple[str, str]:
        who, _, what = self._page[:].rstrip(b"\0").decode(errors="replace").partition("\n")
        return who, what
