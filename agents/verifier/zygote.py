"""A process with torch loaded and nothing running in it, which forks the judge and the workers.

    python -m akg_dynamo.agents.verifier.zygote CONTROL_FD JUDGE_FD SHARED_FOLDER WITHOUT [MODULE...]

Loading torch costs a second; a fork of a process that has loaded it costs milliseconds. The zygote stays single
threaded: one threaded torch operation before a fork hangs the child, whose copy of the thread pool has no threads.
Nor does it touch CUDA, which a child of a process that did cannot use. The MODULEs are loaded too, if they are there.

It is forked in turn by the process that the caller started, which then only waits for its end to remove the workers'
scratch folders: so the zygote is the first process of a process namespace, where there can be one, and whatever a
worker leaves behind becomes its child. SHARED_FOLDER is where kernels by rules are built, WITHOUT
names means of protection to do without. It ends when the process that started it ends, and its children die with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import os
import signal
import socket
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from akg_dynamo.agents.verifier.sandbox import Confinement, confine, namespaces, places, processes, scratch
from akg_dynamo.agents.verifier.sandbox.processes import Tree
from akg_dynamo.core.lifetime import OUTSIDE, die_with_parent

if TYPE_CHECKING:
    from akg_dynamo.agents.verifier.channel import Channel
    from akg_dynamo.agents.verifier.sandbox.namespaces import Surroundings

_PR_SET_CHILD_SUBREAPER = 36
_POLL_S = 2.0
_WATCH_S = 0.1


def _silence() -> None:
    """What a candidate prints is nobody's business: verdicts travel over the channel."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)


def _close_all_but(keep: set[int]) -> None:
    for fd in [int(name) for name in os.listdir("/proc/self/fd")]:
        if fd > 2 and fd not in keep:
            with contextlib.suppress(OSError):  # the listing's own descriptor is closed already
                os.close(fd)


@dataclass
class _Forked:
    """A worker that has not been reaped. ended_for: what it took too much of."""

    confinement: Confinement
    tree: Tree
    ended_for: str = ""


class Zygote:
    """Forks, watches and ends workers for the judge."""

    def __init__(self, requests: Channel, surroundings: Surroundings, judge_pid: int) -> None:
        self.requests = requests
        self.surroundings = surroundings
        self.judge_pid = judge_pid
        self.workers: dict[int, _Forked] = {}
        self.own_bytes = Tree(os.getpid()).census().private_bytes  # a fork has them, too
        self.strays = 0  # that were ended

    def serve(self, control_fd: int, starter: int) -> None:
        """Answer the judge, until it ends or this process's starter does."""
        from akg_dynamo.agents.verifier.channel import ChannelClosed, readable

        while True:
            watched = any(not w.confinement.trusted for w in self.workers.values())
            ready = readable([control_fd, self.requests.fileno()], _WATCH_S if watched else _POLL_S)
            if control_fd in ready or os.getppid() not in (starter, OUTSIDE):
                return  # nothing is ever sent on it: readable means closed
            if self.requests.fileno() not in ready:
                self._watch()
                continue
            try:
                message, _, fds = self.requests.receive_with_fds(2)
            except ChannelClosed:
                return  # the judge is gone, and with it whatever this process is for
            self.requests.send(getattr(self, "_" + message["op"])(message, fds))

    def _fork(self, message: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        """A worker, its end of the channel and its arena being `fds`."""
        confinement = Confinement.from_json(message["confinement"])
        zygote = os.getpid()
        # Device memory is shared only between processes of one namespace.
        wants_apart = not confinement.trusted and confinement.device == "cpu"
        pid, init = namespaces.fork_apart(self.surroundings) if wants_apart else (os.fork(), 0)
        if pid == 0:
            _run_worker(confinement, self.surroundings, init != 0, zygote, fds)
        for fd in fds:
            os.close(fd)
        self.workers[pid] = _Forked(confinement, Tree(pid, init))
        return {"pid": pid, "init": init}

    def _end(self, message: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        """End that worker and all it started; the judge has seen the end of its channel, or has had enough of it."""
        pid = message["pid"]
        worker = self.workers.pop(pid)
        status = processes.end(worker.tree, by_itself=message["by_itself"])
        self.strays += processes.end_strangers(self._known())
        return {"status": status, "ended_for": worker.ended_for}

    def _strays(self, message: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        """How many of them there were since this was last asked."""
        found, self.strays = self.strays + processes.end_strangers(self._known()), 0
        return {"strays": found}

    def _preload(self, message: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        """Load a module that workers forked from now on will need."""
        try:
            importlib.import_module(message["module"])
        except ImportError:
            return {"loaded": False}
        _assert_single()
        return {"loaded": True}

    def _watch(self) -> None:
        """End workers that take too much in ways that the kernel does not limit: many processes, many files."""
        for worker in self.workers.values():
            it = worker.confinement
            if it.trusted or worker.ended_for:
                continue
            worker.ended_for = worker.tree.excess(it.folder, it.limits, self.own_bytes)
            if worker.ended_for:
                worker.tree.kill()
        self.strays += processes.end_strangers(self._known())

    def _known(self) -> set[int]:
        """The children that are no leftovers."""
        return {self.judge_pid, *self.workers, *(w.tree.init for w in self.workers.values())}


def _run_worker(confinement: Confinement, surroundings: Surroundings, apart: bool, zygote: int, fds: list[int]) -> None:
    """The rest of a worker's life."""
    from akg_dynamo.agents.verifier import worker
    from akg_dynamo.agents.verifier.channel import Channel

    die_with_parent(zygote)
    _silence()
    _close_all_but(set(fds))
    channel = Channel(socket.socket(fileno=fds[0]))
    protection = confine(confinement, surroundings, apart=apart)
    die_with_parent(zygote)  # again: it is forgotten with the identity
    channel.send({"protection": protection.to_json()})
    worker.main(channel, fds[1])
    os._exit(0)


def _assert_single() -> None:
    threads = len(os.listdir("/proc/self/task"))
    assert threads == 1, f"{threads} threads before the fork: the children would hang"


def main() -> None:
    """Load, and fork what serves; then wait for its end."""
    control_fd, judge_fd, shared = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    without = tuple(sys.argv[4].split())
    for fd in (control_fd, judge_fd):
        os.set_inheritable(fd, False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C is the user's program's to handle
    os.environ["OPENBLAS_NUM_THREADS"] = "1"

    # Loaded before the fork, so that every child has them.
    import torch

    from akg_dynamo.agents.verifier import referee  # noqa: F401

    for name in sys.argv[5:]:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    torch.empty(1)
    places.readable()
    gc.collect()
    gc.freeze()
    _assert_single()

    scratch.sweep()
    folder = scratch.make()
    surroundings = namespaces.enter(without)
    means = _Means(surroundings, folder, shared)
    this = os.getpid()
    pid = os.fork()
    if pid == 0:
        namespaces.settle(surroundings)
        die_with_parent(this)
        _lead(control_fd, judge_fd, means, this)
        os._exit(0)
    os.close(control_fd)
    os.close(judge_fd)
    os.waitpid(pid, 0)  # which sees to it that nothing is left when the starter ends
    scratch.remove(folder)
    os._exit(0)


@dataclass(frozen=True)
class _Means:
    """folder: for scratch folders. shared: for what kernels by rules are built into."""

    surroundings: Surroundings
    folder: str
    shared: str


def _lead(control_fd: int, judge_fd: int, means: _Means, starter: int) -> None:
    """The zygote proper: fork the judge, then workers as it asks for them."""
    from akg_dynamo.agents.verifier import referee
    from akg_dynamo.agents.verifier.channel import Channel, pair

    if not means.surroundings.processes:
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    zygote = os.getpid()
    requests, judge_side = pair()
    judge_pid = os.fork()
    if judge_pid == 0:
        die_with_parent(zygote)
        os.close(control_fd)
        requests.close()
        referee.main(Channel(socket.socket(fileno=judge_fd)), judge_side, means.folder, means.shared)
        os._exit(0)
    os.close(judge_fd)
    judge_side.close()

    Zygote(requests, means.surroundings, judge_pid).serve(control_fd, starter)
    for one in processes.children(zygote):
        with contextlib.suppress(ProcessLookupError):
            Tree(one).signal(signal.SIGKILL)
    processes.end_strangers(set())


if __name__ == "__main__":
    main()
