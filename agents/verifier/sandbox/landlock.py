"""Landlock: this process, and all it starts, reach the listed files only. Anyone may use it, and nobody can undo it.

https://docs.kernel.org/userspace-api/landlock.html
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
import struct
from collections.abc import Iterable

from akg_dynamo.agents.verifier.sandbox import kernel

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = (1 << i for i in range(4))
_MAKE_CHAR, _MAKE_BLOCK = 1 << 6, 1 << 11
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_FIRST_RIGHTS = (1 << 13) - 1
_FOR_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_DEVICE = _READ_FILE | _WRITE_FILE | _READ_DIR | _IOCTL_DEV
_BIND_TCP, _CONNECT_TCP = 1, 2
_SCOPE_ABSTRACT_SOCKETS, _SCOPE_SIGNALS = 1, 2
_ASK_VERSION = 1
_PATH_BENEATH = 1
_NO_NEW_PRIVS = 38


def version() -> int:
    """The version of its interface; OSError where there is none."""
    return kernel.call("landlock_create_ruleset", None, 0, _ASK_VERSION)


def scopes_signals(abi: int) -> bool:
    """Whether signals can be kept to processes that are as restricted."""
    return abi >= 6


def restrict(
    readable: Iterable[str],
    writable: Iterable[str],
    devices: Iterable[str],
    *,
    abstract_sockets: bool,
    tcp: bool = False,
) -> int:
    """Reach only these, from now on; what is open already stays so. The version that did it.

    abstract_sockets: leave Unix sockets without a path alone, by which CUDA's processes find each other. tcp: leave
    ports alone.
    """
    abi = version()
    fs = _FIRST_RIGHTS | (_REFER if abi >= 2 else 0) | (_TRUNCATE if abi >= 3 else 0) | (_IOCTL_DEV if abi >= 5 else 0)
    net = _BIND_TCP | _CONNECT_TCP if abi >= 4 and not tcp else 0
    scoped = 0
    if scopes_signals(abi):
        scoped = _SCOPE_SIGNALS | (0 if abstract_sockets else _SCOPE_ABSTRACT_SOCKETS)
    asked = struct.pack("QQQ", fs, net, scoped)[: 8 if abi < 4 else 16 if abi < 6 else 24]
    rules = kernel.call("landlock_create_ruleset", asked, len(asked), 0)
    try:
        for paths, rights in (
            (readable, _READ),
            (writable, fs & ~(_MAKE_CHAR | _MAKE_BLOCK)),
            (devices, _DEVICE),
        ):
            for path in paths:
                with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                    _allow(rules, path, rights & fs)
        kernel.prctl(_NO_NEW_PRIVS, 1)
        kernel.call("landlock_restrict_self", rules, 0)
    finally:
        os.close(rules)
    return abi


def _allow(rules: int, path: str, rights: int) -> None:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            rights &= _FOR_FILES
        beneath = ctypes.create_string_buffer(struct.pack("=Qi", rights, fd))
        kernel.call("landlock_add_rule", rules, _PATH_BENEATH, beneath, 0)
    finally:
        os.close(fd)
