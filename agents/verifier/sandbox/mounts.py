"""A view of the file system in which only some folders can be written: for hosts without Landlock."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterable

from akg_dynamo.agents.verifier.sandbox import kernel
from akg_dynamo.agents.verifier.sandbox.namespaces import NEW_MOUNTS

_BIND, _RECURSIVE, _PRIVATE = 1 << 12, 1 << 14, 1 << 18
_HERE, _ALL_BELOW = -100, 0x8000
_READ_ONLY = 1


def read_only_but(writable: Iterable[str]) -> None:
    """Nothing else can be written by this process and what it starts. OSError where that cannot be had."""
    folders = [path.encode() for path in writable]
    kernel.call("unshare", NEW_MOUNTS)
    kernel.call("mount", None, ctypes.c_char_p(b"/"), None, _RECURSIVE | _PRIVATE, 0)
    for folder in folders:
        kernel.call("mount", ctypes.c_char_p(folder), ctypes.c_char_p(folder), None, _BIND, 0)
    _set(b"/", _READ_ONLY, 0)
    for folder in folders:
        _set(folder, 0, _READ_ONLY)


def _set(path: bytes, on: int, off: int) -> None:
    attributes = ctypes.create_string_buffer(struct.pack("QQQQ", on, off, 0, 0), 32)
    kernel.call("mount_setattr", _HERE, ctypes.c_char_p(path), _ALL_BELOW, attributes, 32)
