"""Processes seen from outside, through /proc: what a worker started, how much it takes, and the end of all of it."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass

from akg_dynamo.agents.verifier.sandbox.limits import GIB, Limits

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_MOST_FILES = 20_000
_KILL_S = 5.0
_OWN_END_S = 0.02
_GONE = (FileNotFoundError, ProcessLookupError)


@dataclass(frozen=True)
class Census:
    """How much there is of a worker now.

    threads: its own. processes: started by it, or by those, and still there. all_threads: of all of them.
    private_bytes: memory of all of them that is no file's, with what a fork shares with its parent until it writes.
    """

    threads: int = 0
    processes: int = 0
    all_threads: int = 0
    private_bytes: int = 0


def children(pid: int) -> list[int]:
    """The processes that one started, or inherited."""
    found: list[int] = []
    with contextlib.suppress(*_GONE):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(*_GONE), open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as names:
                found += map(int, names.read().split())
    return found


def tree(pid: int) -> list[int]:
    """It and all below it."""
    found = [pid]
    for one in found:
        found += children(one)
    return found


def signal_tree(pid: int, number: signal.Signals) -> None:
    """Signal it and all below it."""
    for one in tree(pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, number)


def census(pid: int) -> Census:
    """Count it and all below it; nothing, if it has ended."""
    threads, n_bytes = [], 0
    for one in tree(pid):
        with contextlib.suppress(*_GONE):
            threads.append(len(os.listdir(f"/proc/{one}/task")))
            with open(f"/proc/{one}/statm", encoding="ascii") as line:
                resident, shared = map(int, line.read().split()[1:3])
            n_bytes += (resident - shared) * _PAGE_BYTES
    return Census(threads[0], len(threads) - 1, sum(threads), n_bytes) if threads else Census()


def excess(pid: int, folder: str, limits: Limits, at_start_bytes: int) -> str:
    """What a worker takes more of than it may; empty: nothing. What it had `at_start` every fork of it has, too."""
    now = census(pid)
    if now.all_threads > limits.processes:
        return f"it started {now.all_threads} processes and threads, {limits.processes} are allowed"
    used = now.private_bytes - (1 + now.processes) * at_start_bytes
    if used > limits.memory_bytes:
        return f"its processes took {used / GIB:.1f} GiB of memory, {limits.memory_bytes / GIB:.1f} are allowed"
    files = 0
    written = 0
    for n_bytes in _sizes(folder):
        files, written = files + 1, written + n_bytes
        if files > _MOST_FILES or written > limits.scratch_bytes:
            return f"it wrote {files} files of {written / GIB:.1f} GiB, {limits.scratch_bytes / GIB:.1f} are allowed"
    return ""


def _sizes(folder: str) -> Iterator[int]:
    left = [folder]
    while left:
        try:
            entries = list(os.scandir(left.pop()))
        except OSError:  # removed meanwhile, or closed to everybody
            continue
        for entry in entries:
            with contextlib.suppress(OSError):
                about = entry.stat(follow_symlinks=False)
                yield about.st_blocks * 512
                if stat.S_ISDIR(about.st_mode):
                    left.append(entry.path)


def end(pid: int, init: int, known: set[int], *, by_itself: bool) -> int:
    """Kill a child of this process with all it started, and what nobody else here is known to have started. Its status.

    What leaves its parent becomes this process's child: it is the init of its namespace, or their subreaper.
    init: of the namespace that only the child and what it started are in, or 0. by_itself: it seems to be ending, and
    is given a moment to leave its own status.
    """
    status = _wait(pid, _OWN_END_S) if by_itself else None
    if init:
        os.kill(init, signal.SIGKILL)
    if status is None:
        signal_tree(pid, signal.SIGKILL)
        status = _wait(pid, _KILL_S)
    if init:
        _wait(init, _KILL_S)  # not before: it waits for all in its namespace to have been waited for
    end_strangers(known)
    return status if status is not None else int(signal.SIGKILL)


def end_strangers(known: set[int]) -> None:
    """Kill every child of this process that it does not know: whoever started them has left them behind."""
    deadline = time.monotonic() + _KILL_S
    while time.monotonic() < deadline:
        strangers = [pid for pid in children(os.getpid()) if pid not in known]
        if not strangers:
            return
        for one in strangers:
            for below in tree(one):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(below, signal.SIGKILL)
            _wait(one, _KILL_S)


def _wait(pid: int, timeout_s: float) -> int | None:
    deadline = time.monotonic() + timeout_s
    pause = 0.0002
    while True:
        try:
            found, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            return int(signal.SIGKILL)
        if found:
            return status
        if time.monotonic() > deadline:
            return None
        time.sleep(pause)
        pause = min(2 * pause, 0.005)
