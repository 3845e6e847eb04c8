"""Namespaces: a network with nobody in it, and processes that see, and can reach, only each other.

The judge's processes share one set of them, so that they find each other's device memory; a fresh worker on the host
gets a process namespace of its own inside. Root may make them; anyone else makes a user namespace first, where that is
allowed.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import os
import shutil
import signal
import socket
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass

from akg_dynamo.agents.verifier.sandbox import kernel

NEW_MOUNTS, NEW_USER, NEW_PROCESSES, NEW_NETWORK = 0x00020000, 0x10000000, 0x20000000, 0x40000000
_NEW_IPC = 0x08000000
_NO_SUID, _NO_DEVICES, _NO_EXEC, _RECURSIVE, _PRIVATE = 2, 4, 8, 1 << 14, 1 << 18
_NOTHING = 0
_SET_FLAGS, _UP = 0x8914, 0x1  # SIOCSIFFLAGS, IFF_UP
LEFT_OUT = "asked to do without"
_sleep = shutil.which("sleep", path="/usr/bin:/bin")
_WAITS = [_sleep, str(2**31 - 1)] if _sleep else [sys.executable, "-SIc", "import signal\nwhile True: signal.pause()"]
"""A program that does nothing, and is small."""


@dataclass(frozen=True)
class Surroundings:
    """What the judge's processes live in.

    why_not: why there is no more of it, where there is not. user: a user namespace was made for it. without: means to
    do without, as on hosts that lack them ("namespaces", "landlock", "mounts", "seccomp", "identity", "privileges",
    "limits"): for tests of what is done then. "proc": without keeping others' /proc from being written.
    """

    network: bool = False
    processes: bool = False
    user: bool = False
    why_not: str = ""
    without: tuple[str, ...] = ()


def enter(without: tuple[str, ...] = ()) -> Surroundings:
    """Make the next process forked from here live in as many namespaces as can be had. This process has one thread."""
    if "namespaces" in without:
        return Surroundings(why_not=LEFT_OUT, without=without)
    why_not = ""
    everything, network = NEW_NETWORK | _NEW_IPC | NEW_PROCESSES | NEW_MOUNTS, NEW_NETWORK | _NEW_IPC
    for flags in (everything, network):
        for user in (_NOTHING, NEW_USER):
            failed = _tried(functools.partial(_make, flags | user))
            if not failed:
                _unshare(flags | user)
                return Surroundings(True, bool(flags & NEW_PROCESSES), bool(user), why_not, without)
            why_not = why_not or failed
    return Surroundings(why_not=why_not, without=without)


def settle(surroundings: Surroundings) -> None:
    """In the first process of them: let /proc show the processes that are here, and have an address of their own."""
    if surroundings.processes:
        _mount_proc()
    if surroundings.network:
        with contextlib.suppress(OSError):  # for tools whose processes talk to each other; whoever needs none has none
            _loopback_up()


def fork_apart(surroundings: Surroundings) -> tuple[int, int]:
    """Fork, into a process namespace of its own if there can be one. Also: that one's init, or 0.

    When the init ends, all in the namespace do. It is not the child itself, which would be spared signals it deserves.
    """
    if not surroundings.processes:
        return os.fork(), 0
    home = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _unshare(NEW_PROCESSES)
        init = os.posix_spawn(_WAITS[0], _WAITS, {})
        pid = os.fork()
        if pid != 0:
            kernel.call("setns", home, NEW_PROCESSES)
    finally:
        os.close(home)
    return pid, init


def own_user() -> None:
    """Enter a user namespace in which this user's processes are counted afresh."""
    _unshare(NEW_USER)


def _make(flags: int) -> None:
    """Try all of it, in a process that is of no further use."""
    _unshare(flags)
    if flags & NEW_PROCESSES:
        failed = _tried(_mount_proc)
        if failed:
            raise OSError(0, failed)


def _tried(attempt: Callable[[], None]) -> str:
    """Why that fails in a child process; empty if it does not."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            attempt()
        except OSError as error:
            os.write(writing, kernel.reason(error).encode()[:500] or b"it fails")
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as said:
        text = said.read().decode()
    _, status = os.waitpid(pid, 0)
    return text or (signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else "")


def _unshare(flags: int) -> None:
    uid, gid = os.getuid(), os.getgid()
    kernel.call("unshare", flags)
    if flags & NEW_USER:
        for name, line in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                file.write(line)


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sh14x", b"lo", _UP))


def _mount_proc() -> None:
    kernel.call("mount", _NONE, _text("/"), _NONE, _RECURSIVE | _PRIVATE, 0)
    kernel.call("mount", _text("proc"), _text("/proc"), _text("proc"), _NO_SUID | _NO_DEVICES | _NO_EXEC, 0)


_NONE = ctypes.c_char_p(None)


def _text(value: str) -> ctypes.c_char_p:
    return ctypes.c_char_p(value.encode())
