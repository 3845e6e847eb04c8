"""Kernels are compiled in other processes, as many as there are cores.

Triton is a compiler in Python: sixteen threads that compile wait for one interpreter, and so does all else in the
user's process. Here each build has an interpreter of its own, a fork of one that has loaded Triton.

    start()                                  returns at once; Triton loads in another process meanwhile
    build(candidate, target, build_dir)      False if nobody can build there yet: then it is built here

The processes end when nothing was built for a while, and with the program that started them.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from pathlib import Path

from akg_dynamo.core.errors import ToolchainError
from akg_dynamo.core.lifetime import die_with_parent
from akg_dynamo.core.types import Candidate, Design, OpNode, Ref, Subgraph, Target, TensorSpec

_IDLE_S = 60.0
_END_S = 5.0
_MOST = 16
_LEAST_CORES = 4  # with fewer, another process that loads Triton takes longer than it saves


class _Builders:
    """The user's side of the processes."""

    def __init__(self, jobs: int) -> None:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "akg_dynamo.agents.coder.builders", str(theirs.fileno()), str(jobs)]
        with theirs:
            self.popen = subprocess.Popen(
                command,
                pass_fds=(theirs.fileno(),),
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # threads do not survive a fork
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # ctrl-C is the user's program's to handle
            )
        self.owner = os.getpid()
        self.connection = Connection(ours.detach())
        self.pending: dict[int, Future[str]] = {}
        self.lock = threading.Lock()
        self.ready = False
        self.numbers = itertools.count()
        threading.Thread(target=self._read, name="akg-builders", daemon=True).start()

    @property
    def usable(self) -> bool:
        """Whether it can be asked now."""
        return self.ready and self.owner == os.getpid()

    def ask(self, candidate: Candidate, target: Target, build_dir: Path) -> Future[str]:
        """Why it does not build, or nothing; cancelled if they cannot say that."""
        future: Future[str] = Future()
        with self.lock:
            number = next(self.numbers)
            self.pending[number] = future
            try:
                self.connection.send((number, candidate, target, build_dir))
            except OSError:
                del self.pending[number]
                future.cancel()
        return future

    def _read(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while self.connection.poll(_IDLE_S) or self.pending:
                number, refusal = self.connection.recv()
                if number is None:
                    self.ready = True
                    continue
                with self.lock:
                    future = self.pending.pop(number)
                if refusal is None:
                    future.cancel()
                else:
                    future.set_result(refusal)
        with self.lock:
            self.ready = False
            left = list(self.pending.values())
            self.pending.clear()
            self.connection.close()
        for future in left:
            future.cancel()
        self.popen.wait()

    def stop(self) -> None:
        """End the processes."""
        if self.owner == os.getpid():
            self.popen.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(_END_S)


_running: list[_Builders] = []  # none or one
_lock = threading.Lock()


def start() -> None:
    """Starts the processes, unless they are there; where there are few cores, never."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cores < _LEAST_CORES:
        return
    with _lock:
        if _running and _running[0].owner == os.getpid() and _running[0].popen.poll() is None:
            return
        _running[:] = [_Builders(min(cores, _MOST))]


def stop() -> None:
    """Ends the processes."""
    with _lock:
        ending = list(_running)
        _running.clear()
    for builders in ending:
        builders.stop()


def ready() -> bool:
    """Whether they can be asked."""
    return _usable() is not None


def _usable() -> _Builders | None:
    with _lock:
        return next((b for b in _running if b.usable), None)


def build(candidate: Candidate, target: Target, build_dir: Path) -> bool:
    """Whether another process has built it.

    Raises:
        ToolchainError: it does not build.
    """
    builders = _usable()
    if builders is None:
        return False
    try:
        refusal = builders.ask(candidate, target, build_dir).result()
    except CancelledError:
        return False
    if refusal:
        raise ToolchainError(refusal)
    return True


atexit.register(stop)


# -- in the other processes -------------------------------------------------------------------------------------------


def _one(candidate: Candidate, target: Target, build_dir: Path) -> str:
    from akg_dynamo.agents.coder import by_rules

    try:
        by_rules.built(candidate, target, build_dir)
    except ToolchainError as error:
        return str(error)
    return ""


def _begin(parent: int) -> None:
    os.nice(5)  # what is timed meanwhile comes first
    die_with_parent(parent)


def _serve(connection: Connection, jobs: int) -> None:
    """Build what is asked for, until nobody can ask any more."""
    sending = threading.Lock()

    def answer(number: int, done: Future[str]) -> None:
        if isinstance(done.exception(), BrokenProcessPool):
            os._exit(1)  # whose fault it was is not known: what is not built yet is built by who asked
        with sending, contextlib.suppress(OSError):
            connection.send((number, None if done.exception() else done.result()))

    fork = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(jobs, mp_context=fork, initializer=_begin, initargs=(os.getpid(),)) as pool:
        pool.submit(int).result()  # which forks them all, while this process has one thread
        with sending:
            connection.send((None, ""))
        with contextlib.suppress(EOFError, OSError):
            while True:
                number, *asked = connection.recv()
                pool.submit(_one, *asked).add_done_callback(functools.partial(answer, number))


def _load() -> None:
    """Have what every build needs in memory before the fork: Triton, and what it finds out about itself once."""
    from triton.backends.nvidia import compiler as _
    from triton.compiler import code_generator as _  # noqa: F401, F811

    from akg_dynamo.agents.coder import by_rules
    from akg_dynamo.agents.designer.rules import design

    spec = TensorSpec("float32", (16,), (1,), "cuda")
    small = Subgraph((spec,), (), (OpNode("aten.relu.default", (Ref(0),), (), spec),), (1,))
    target = Target("cuda", "triton_cuda", "sm_90", "sm_90")
    made = design(small, target)
    assert isinstance(made, Design)
    with tempfile.TemporaryDirectory() as folder:
        by_rules.built(by_rules.write(small, made, target, "small"), target, Path(folder))


def main() -> None:
    """Load, and serve."""
    _load()
    _serve(Connection(int(sys.argv[1])), int(sys.argv[2]))


if __name__ == "__main__":
    main()
