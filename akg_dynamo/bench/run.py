"""The parent of the workers: hands out problems, one process per device, and survives a worker's death.

A kernel that breaks the CUDA context, a segfault, or a problem that hangs costs one row and a new worker.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from multiprocessing.connection import Connection
from pathlib import Path
from time import monotonic

import torch

from akg_dynamo.bench.problem import name_of
from akg_dynamo.bench.progress import Progress
from akg_dynamo.bench.worker import Job, Row
from akg_dynamo.core.errors import EnvironmentFault, UserError

_POLL_S = 0.5
_START_S = 300.0
"""For loading torch and opening the device, on a machine that is busy."""
_END_S = 30.0


def devices(asked: str) -> list[str]:
    """The devices to measure on: "auto" is every CUDA device, or else the CPU. UserError for one that is not there."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if asked == "cpu" or (asked == "auto" and not count):
        return ["cpu"]
    if not count:
        raise UserError(f"no CUDA device for --device {asked}: `akg doctor` says what is here")
    if asked in ("auto", "cuda"):
        return [f"cuda:{i}" for i in range(count)]
    if asked in [f"cuda:{i}" for i in range(count)]:
        return [asked]
    raise UserError(f"no device {asked!r}: there are cpu, cuda, {', '.join(f'cuda:{i}' for i in range(count))}")


def run(
    paths: Sequence[Path], jobs: Sequence[Job], done: Callable[[int, Row], None], timeout_s: float = math.inf
) -> None:
    """A row per problem: `done` is called with its place in `paths` and each as it comes, from several threads.

    timeout_s: how long a problem may take in all. A worker in which one takes longer is killed, with its group.

    Raises:
        EnvironmentFault: a worker cannot be started. As with any other exception, KeyboardInterrupt among them, no
            worker is left behind, and `done` has had the rows so far.
    """
    todo: queue.SimpleQueue[tuple[int, Path]] = queue.SimpleQueue()
    for item in enumerate(paths):
        todo.put(item)
    stop = threading.Event()

    def drain(job: Job) -> None:
        with contextlib.suppress(_Stopped), contextlib.closing(_Worker(job, timeout_s, stop)) as worker:
            while not stop.is_set():
                try:
                    number, path = todo.get_nowait()
                except queue.Empty:
                    break
                done(number, worker.measure(path))

    with ThreadPoolExecutor(len(jobs), thread_name_prefix="bench") as pool:
        try:
            drained = [pool.submit(drain, job) for job in jobs]
            wait(drained, return_when=FIRST_EXCEPTION)
        finally:
            stop.set()
    for future in drained:
        future.result()


class _Stopped(Exception):
    """Nobody wants the row any more."""


class _Hung(Exception):
    """No answer in time."""


class _Died(Exception):
    """The process ended; the text says how."""


class _Worker:
    """A worker process, started when first needed, and again only after it died or was killed."""

    def __init__(self, job: Job, timeout_s: float, stop: threading.Event) -> None:
        self._job = job
        self._timeout_s = timeout_s
        self._stop = stop
        self._process: _Process | None = None

    def measure(self, path: Path) -> Row:
        """The problem's row, whatever becomes of the process."""
        process = self._process or self._start()
        process.progress.now("problem", "being loaded")
        try:
            process.ask(os.fsencode(path.resolve()))
            return Row(**json.loads(process.answer(self._timeout_s, self._stop)))
        except _Hung:
            self.close(kill=True)
            error = f"hung: {process.progress} when {self._timeout_s:g} s were over (--timeout); it was killed"
        except _Died as death:
            self.close(kill=True)
            error = f"the worker process died ({death}) while {process.progress}"
        return Row(name_of(path), error=error, failed=process.progress.who)

    def _start(self) -> _Process:
        self._process = _Process(self._job)
        try:
            self._process.answer(_START_S, self._stop)
        except (_Hung, _Died) as fault:
            how = str(fault) or f"nothing for {_START_S:g} s"
            raise EnvironmentFault(
                f"the process that measures on {self._job.device} does not start ({how}): see above what it said, and "
                "`akg doctor` for what is here."
            ) from fault
        return self._process

    def close(self, *, kill: bool = False) -> None:
        """Ends the process; one that has a problem before it is not waited for."""
        process, self._process = self._process, None
        if process is not None:
            process.end(0.0 if kill or self._stop.is_set() else _END_S)


class _Process:
    """A worker that runs, with all that it starts in a process group of its own."""

    def __init__(self, job: Job) -> None:
        ours, theirs = socket.socketpair()
        page = Progress.new_file()
        self.progress = Progress(page)
        asked = json.dumps(dataclasses.asdict(job))
        fds = (theirs.fileno(), page)
        try:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "akg_dynamo.bench.worker", asked, *map(str, fds), str(os.getpid())],
                pass_fds=fds,
                stdin=subprocess.DEVNULL,
                stdout=2,  # what problems print is not a result
                start_new_session=True,
            )
        finally:
            theirs.close()
            os.close(page)
        self._channel = Connection(ours.detach())

    def ask(self, message: bytes) -> None:
        with self._its_death():
            self._channel.send_bytes(message)

    def answer(self, timeout_s: float, stop: threading.Event) -> bytes:
        late = monotonic() + timeout_s
        with self._its_death():
            while not self._channel.poll(_POLL_S):
                if stop.is_set():
                    raise _Stopped
                if monotonic() > late:
                    raise _Hung
                # a child that it forked may hold the other end of the channel open
                if self._popen.poll() is not None and not self._channel.poll(0):
                    raise _Died(self._how())
            return self._channel.recv_bytes()

    @contextlib.contextmanager
    def _its_death(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError) as error:  # the other end is closed: it is dead, or about to be
            raise _Died(self._how()) from error

    def _how(self) -> str:
        try:
            code = self._popen.wait(_END_S)
        except subprocess.TimeoutExpired:
            return "it closed its channel"
        return f"exit {code}" if code >= 0 else signal.Signals(-code).name

    def end(self, grace_s: float) -> None:
        """Lets it end by itself for so long; nothing of its process group is left after that."""
        self._channel.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(grace_s)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):  # a driver may hold on to it for a while
            self._popen.wait(_END_S)
