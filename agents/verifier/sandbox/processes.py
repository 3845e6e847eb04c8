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
_OWN_END_S = 2.0  # on a busy machine it takes as long to be scheduled; who closes its channel and lives is ended then
_GONE = (FileNotFoundError, ProcessLookupError)


@dataclass(frozen=True)
class Census:
    """How much there is of a worker now.

    threads: its own. processes: itself, and those that it started, or they did, and that still run. all_threads: of all
    of them. private_bytes: memory of all of them that is no file's, with what a fork shares with its parent until it
    writes.
    """

    threads: int = 0
    processes: int = 0
    all_threads: int = 0
    private_bytes: int = 0


@dataclass(frozen=True)
class Tree:
    """A worker, and all that it started.

    init: of the process namespace that nothing else is in, which inherits what leaves its parent; 0: there is none.
    """

    pid: int
    init: int = 0

    def processes(self) -> list[int]:
        """The worker first; not the init."""
        found = [self.pid]
        for one in found:
            found += children(one)
        left = children(self.init) if self.init else []
        for one in left:
            left += children(one)
        return found + left

    def signal(self, number: signal.Signals) -> None:
        """Signal all of it."""
        for one in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, number)

    def kill(self) -> None:
        """End all of it: at once where it is in a namespace of its own, else one by one."""
        if self.init:
            os.kill(self.init, signal.SIGKILL)
        self.signal(signal.SIGKILL)

    def census(self) -> Census:
        """Count it; nothing, if it has ended."""
        threads, n_bytes = [], 0
        for one in self.processes():
            with contextlib.suppress(*_GONE):
                n_threads = len(os.listdir(f"/proc/{one}/task"))
                with open(f"/proc/{one}/statm", encoding="ascii") as line:
                    resident, shared = map(int, line.read().split()[1:3])
                if resident:  # else it has ended, and nobody has asked how
                    threads.append(n_threads)
                    n_bytes += (resident - shared) * _PAGE_BYTES
        return Census(threads[0], len(threads), sum(threads), n_bytes) if threads else Census()

    def excess(self, folder: str, limits: Limits, at_start_bytes: int) -> str:
        """What it takes more of than it may; empty: nothing. What it had `at_start` every fork of it has, too."""
        now = self.census()
        if now.all_threads > limits.processes:
            return f"it started {now.all_threads} processes and threads, {limits.processes} are allowed"
        used = now.private_bytes - now.processes * at_start_bytes
        if used > limits.memory_bytes:
            return f"its processes took {used / GIB:.1f} GiB of memory, {limits.memory_bytes / GIB:.1f} are allowed"
        files = 0
        written = 0
        for n_bytes in _sizes(folder):
            files, written = files + 1, written + n_bytes
            if files > _MOST_FILES or written > limits.scratch_bytes:
                return (
                    f"it wrote {files} files of {written / GIB:.1f} GiB, {limits.scratch_bytes / GIB:.1f} are allowed"
                )
        return ""


def children(pid: int) -> list[int]:
    """The processes that one started, or inherited."""
    found: list[int] = []
    with contextlib.suppress(*_GONE):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(*_GONE), open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as names:
                found += map(int, names.read().split())
    return found


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


def end(worker: Tree, *, by_itself: bool) -> int:
    """Kill a child of this process with all it started. Its status.

    by_itself: it seems to be ending, and is given a moment to leave its own status.
    """
    status = _wait(worker.pid, _OWN_END_S) if by_itself else None
    if status is None:
        worker.kill()
        status = _wait(worker.pid, _KILL_S)
    elif worker.init:
        os.kill(worker.init, signal.SIGKILL)
    if worker.init:
        _wait(worker.init, _KILL_S)  # not before: it waits for all in its namespace to have been waited for
    return status if status is not None else int(signal.SIGKILL)


def end_strangers(known: set[int]) -> int:
    """Kill every child of this process that it does not know, with all it started; how many were still running.

    What leaves its parent becomes this process's child, where it is the init of their namespace, or their subreaper.
    """
    deadline = time.monotonic() + _KILL_S
    running = 0
    while time.monotonic() < deadline:
        strangers = [pid for pid in children(os.getpid()) if pid not in known]
        if not strangers:
            break
        for one in strangers:
            running += Tree(one).census().processes
            Tree(one).signal(signal.SIGKILL)
            _wait(one, _KILL_S)
    return running


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
