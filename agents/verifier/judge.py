"""The caller's side of the judge: starts it, hands it jobs, gets verdicts. No candidate code is ever run here.

with Judge() as judge:                    # returns at once; torch loads in another process meanwhile
    judge.warm("cuda")                    # and so do contexts on a device, if it is asked for one
    pending = [judge.submit(job) for job in jobs]
    verdicts = [p.result() for p in pending]
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import math
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from types import TracebackType
from typing import Any, TypeVar

import torch

from akg_dynamo.agents.verifier.channel import ChannelClosed, ChannelTimeout, pair
from akg_dynamo.agents.verifier.job import Job
from akg_dynamo.agents.verifier.sandbox import environment
from akg_dynamo.cache.flags import EagerFlags
from akg_dynamo.cache.store import OBJECTS, Store
from akg_dynamo.core import settings
from akg_dynamo.core.errors import JudgeError
from akg_dynamo.core.protection import Protection
from akg_dynamo.core.types import Candidate, Outcome, Timing, Trick, Verdict

_T = TypeVar("_T")

_END_S = 10.0
_IDLE_S = 60.0
"""A judge with contexts on a device, which hold some of its memory, ends after so long without a job."""
_WITHOUT = ""
"""Means of protection that the judge does without, as on hosts that lack them: see `namespaces.Surroundings`."""
_GPU_FILES = ("/dev/nvidiactl", "/dev/dxg")


class _Process:
    """One running judge."""

    def __init__(self) -> None:
        control, control_theirs = pair()
        channel, channel_theirs = pair()
        fds = (control_theirs.fileno(), channel_theirs.fileno())
        command = [sys.executable, "-m", "akg_dynamo.agents.verifier.zygote", *map(str, fds)]
        command += [os.path.realpath(Store().root / OBJECTS), _WITHOUT]
        # What candidates for a GPU import anyway is loaded before the fork too.
        command += ["triton"] if any(map(os.path.exists, _GPU_FILES)) else []
        self.popen = subprocess.Popen(
            command,
            pass_fds=fds,
            env=environment.clean(os.environ) | {"OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=None if settings.judge_stderr() else subprocess.DEVNULL,
            start_new_session=True,
        )
        control_theirs.close()
        channel_theirs.close()
        self.owner = os.getpid()
        self.control = control
        self.channel = channel
        self.pending: dict[int, Future[Any]] = {}
        self.asked: dict[int, Future[Protection]] = {}
        self.lock = threading.Lock()
        self.sending = threading.Lock()
        self.ready = threading.Event()
        self.dead = False
        self.on_device = False
        self.numbers = itertools.count()
        self.reader = threading.Thread(target=self._read, name="akg-judge", daemon=True)
        self.reader.start()

    def warm(self, ordinal: int) -> None:
        self.on_device = True
        with contextlib.suppress(ChannelClosed), self.sending:  # its end is noticed by what is submitted next
            self.channel.send({"warm": ordinal})

    def foresee(self) -> None:
        if not self.on_device:
            self.on_device = True
            with contextlib.suppress(ChannelClosed), self.sending:
                self.channel.send({"foreseen": True})

    def submit(self, job: Job) -> Future[Verdict]:
        return self._ask({}, pickle.dumps(job), job.device)

    def race(self, job: Job, rivals: Sequence[Candidate]) -> Future[list[float]]:
        return self._ask({"race": True}, pickle.dumps((job, tuple(rivals))), job.device)

    def _ask(self, message: dict[str, Any], blob: bytes, device: str) -> Future[Any]:
        future: Future[Any] = Future()
        with self.lock:
            if self.dead:
                raise JudgeError("the judge's process has ended")
            self.on_device |= device != "cpu"
            number = next(self.numbers)
            self.pending[number] = future
        try:
            with self.sending:  # which may wait for the judge, while the reader takes in its verdicts
                self.channel.send({"id": number, **message}, blob)
        except ChannelClosed:
            with self.lock:
                if self.pending.pop(number, None) is not None:
                    raise JudgeError("the judge's process has ended") from None
        return future

    def ask_protection(self, device: str, *, trusted: bool) -> Future[Protection]:
        future: Future[Protection] = Future()
        with self.lock:
            number = next(self.numbers)
            self.asked[number] = future
        with self.sending:
            self.channel.send({"id": number, "protection": device, "trusted": trusted})
        return future

    def _read(self) -> None:
        while True:
            try:
                message, _ = self.channel.receive(_IDLE_S if self.on_device and not self.pending else None)
            except ChannelTimeout:
                with self.lock:
                    self.dead = not self.pending
                if not self.dead:
                    continue
                self.control.close()
                break
            except ChannelClosed:
                break
            if "ready" in message:
                self.ready.set()
                continue
            if message["id"] in self.asked:
                asked = self.asked.pop(message["id"])
                if "error" in message:
                    asked.set_exception(JudgeError(message["error"]))
                else:
                    asked.set_result(Protection.from_json(message["protection"]))
                continue
            with self.lock:
                future = self.pending.pop(message["id"])
            if "error" in message:
                future.set_exception(JudgeError(message["error"]))
            elif "race" in message:
                future.set_result([math.inf if cost is None else cost for cost in message["race"]])
            else:
                future.set_result(_verdict(message["verdict"]))
        with self.lock:
            self.dead = True
            left: list[Future[Any]] = [*self.pending.values(), *self.asked.values()]
            self.pending.clear()
            self.asked.clear()
        for unanswered in left:
            unanswered.set_exception(JudgeError("the judge's process ended before it answered"))

    def stop(self) -> None:
        if os.getpid() != self.owner:
            return  # a fork of the user's process does not own it
        self.control.close()  # upon which it ends its children and removes what they wrote
        try:
            self.popen.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
        self.reader.join(timeout=5)
        self.channel.close()


def _verdict(data: dict[str, Any]) -> Verdict:
    return Verdict(
        outcome=Outcome[data["outcome"]],
        detail=data["detail"],
        checked=tuple(data["checked"]),
        refuses=tuple(data["refuses"]),
        unjudged=tuple(data["unjudged"]),
        timing=Timing(*data["timing"]) if data["timing"] else None,
        build_s=data["build_s"],
        judge_s=data["judge_s"],
        phases=tuple((name, seconds) for name, seconds in data["phases"]),
        protection=Protection.from_json(data["protection"]),
        tricks=tuple(Trick[name] for name in data["tricks"]),
        seed=data["seed"],
        reproduction=data["reproduction"],
    )


_warm: _Process | None = None
_warm_lock = threading.Lock()


def _acquire() -> _Process:
    global _warm  # noqa: PLW0603 - one judge per process, kept between compiles
    with _warm_lock:
        if _warm is not None and (_warm.dead or _warm.owner != os.getpid()):
            _warm.stop()
            _warm = None
        if _warm is None:
            _warm = _Process()
        return _warm


def foresee() -> None:
    """Start the processes for jobs on a device that may come soon: loading torch takes a second or two. They end if
    none comes, and have no contexts yet.
    """
    _acquire().foresee()


def shut_down() -> None:
    """End the judge's processes; the next `Judge` starts new ones."""
    global _warm  # noqa: PLW0603
    with _warm_lock:
        if _warm is not None:
            _warm.stop()
            _warm = None


atexit.register(shut_down)


def _ordinal() -> int:
    """The CUDA device that this process uses."""
    return torch.cuda.current_device() if torch.cuda.is_initialized() else 0  # type: ignore[no-untyped-call]


def _as_here(job: Job) -> Job:
    """With what is left to the process that submits it."""
    if job.flags is None:
        job = replace(job, flags=EagerFlags.now())
    if job.ordinal is None and job.device == "cuda":
        job = replace(job, ordinal=_ordinal())
    return job


class Judge:
    """Judges candidates in other processes. Creating one starts them and does not wait.

    The processes stay warm between judges of one program, and end with it (or by `shut_down`).
    """

    def __init__(self, *, keep_warm: bool = True) -> None:
        self._keep_warm = keep_warm
        self._process = _acquire()

    def __enter__(self) -> Judge:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._keep_warm:
            shut_down()

    def close(self) -> None:
        """End the judge's processes."""
        shut_down()

    @property
    def pid(self) -> int:
        """The process that all others of the judge come from."""
        return self._process.popen.pid

    def wait_ready(self, timeout_s: float = 60.0) -> None:
        """Wait until torch is loaded there; only measurements need this."""
        if not self._process.ready.wait(timeout_s):
            raise JudgeError(f"the judge did not start in {timeout_s:g} s")

    def warm(self, device: str) -> None:
        """Say that jobs on that device will come: contexts take a second or two, in other processes."""
        if device != "cpu":
            self._living().warm(_ordinal())

    def _living(self) -> _Process:
        if self._process.dead or self._process.owner != os.getpid():  # a fork's questions are not its parent's
            self._process = _acquire()
        return self._process

    def protection(self, device: str = "cpu", *, trusted: bool = False) -> Protection:
        """What candidates for that device are kept from on this host."""
        return self._process.ask_protection(device, trusted=trusted).result()

    def submit(self, job: Job) -> Future[Verdict]:
        """Queue a job; its verdict comes later. Jobs are judged in the order they are submitted."""
        job = _as_here(job)
        return self._asked(lambda process: process.submit(job))

    def race(self, job: Job, rivals: Sequence[Candidate]) -> Future[list[float]]:
        """Queue the question which variant is the fastest: seconds of a call of the job's candidate and of each rival,
        on the same inputs and without eager; infinite for those that cannot be run. Kernels by rules only.
        """
        job = _as_here(job)
        return self._asked(lambda process: process.race(job, rivals))

    def _asked(self, ask: Callable[[_Process], Future[_T]]) -> Future[_T]:
        try:
            return ask(self._living())
        except JudgeError:  # it ended a moment ago
            self._process = _acquire()
            return ask(self._process)

    def judge(self, jobs: Sequence[Job]) -> list[Verdict]:
        """The verdicts, in the order of the jobs."""
        return [future.result() for future in [self.submit(job) for job in jobs]]
