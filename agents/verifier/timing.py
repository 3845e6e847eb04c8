"""How a candidate's speed is measured: beside eager in its own process if rules wrote it, by the judge's clock if not.

A candidate that may cheat and eager run in two processes that are alike, each called from here: a random number of
times, on inputs that neither has seen before (`ring`), and time is the slope between two such numbers. Every output is
in the judge's memory when the answer comes, and some are checked. While one of the two is timed the other is stopped,
so that neither's threads can stand in the other's way, and who starts threads or processes meanwhile is found out.

A claim that the hardware cannot keep is rejected: see `profiler.roofline`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import pickle
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from akg_dynamo.agents.profiler.abba import compare
from akg_dynamo.agents.profiler.cold import SAMPLES, DeviceCaches, HostCaches
from akg_dynamo.agents.profiler.roofline import Ceiling, work
from akg_dynamo.agents.verifier import plan
from akg_dynamo.agents.verifier.case import Case
from akg_dynamo.agents.verifier.job import Job
from akg_dynamo.agents.verifier.ring import Ring, layout
from akg_dynamo.agents.verifier.shapes import elements, near, storage_bytes
from akg_dynamo.agents.verifier.values import Values
from akg_dynamo.agents.verifier.workers import Failed, Worker
from akg_dynamo.core.types import Outcome, Timing, Trick

_FIRST_NUMBER = 1_000_000  # of the cases that are timed: other inputs than those judged
_MOST_SETS = 1024
_HOST_RING_BYTES = 64 << 20
_DEVICE_RING_BYTES = 4 << 30
_COPIED_RING_BYTES = 8 << 20  # of a device's data, where the arena is not in its memory
_CHECKED_SHARE = 0.2
_ROWS_SEEN = 64  # of a run that is looked at: its outputs are compared with eager's
_SEEN_BYTES = 16 << 20
_ROWS_CHECKED = 2  # of those: the furthest from eager's are judged like any others
_LONG_RUN_S = 0.005
_COPY_SAMPLES = 7
_LEAST_SHARE = 0.5  # of a call's time that is not the copying of its outputs
_LATE_S = 0.05
_LEAST_CALLS = 6000  # that a candidate makes while it is timed, if there is time for them
_GO_ON_S = 0.25
_TOLD_APART = 2.0  # a cold call from none, by how far the best samples of none are apart
_START_S = 60.0


@dataclass
class _Side:
    """The candidate's process, or eager's. `calls`: how many make a run long enough."""

    process: Worker
    ring: Ring
    is_kernel: bool
    calls: int = 1


class Stopwatch:
    """Times one job. `twin`: a process that has never seen the candidate; `another`: one more such process."""

    def __init__(
        self,
        worker: Worker,
        twin: Worker,
        job: Job,
        values: Values,
        ceiling: Ceiling,
        *,
        another: Callable[[], contextlib.AbstractContextManager[Worker]] | None = None,
    ) -> None:
        sizes = plan.timed(job.subgraph, job.seed, values.means, trusted=job.trusted)
        if sizes is None:
            raise Failed(Outcome.NOT_JUDGED, "too big to be timed in the memory there is")
        self.worker = worker
        self.twin = twin
        self.job = job
        self.values = values
        self.ceiling = ceiling
        self.another = another
        self.threads: int | None = None  # of the candidate's process, once it is warm
        self.footprint = 0  # bytes of all data sets in turn
        self.rng = random.Random(f"{job.seed}/timing")
        self.traced = sizes
        self.called = 0
        self.least_calls = self.rng.randint(_LEAST_CALLS // 2, _LEAST_CALLS)
        self.cold: tuple[float, float] | None = None  # microseconds of eager's call and the kernel's, once taken

    def measure(self) -> Timing:
        """The verdict on speed. Rules make kernels for one size, or time more of them by themselves; whoever may cheat
        is timed at several of a class, sizes that it cannot know, and what counts is the geometric mean.
        """
        if self.job.trusted:
            return self._at(self.traced)
        others = near(self.job.subgraph, self.traced, self.rng, self.values.means.limit_elements)
        timing = self._beside_the_twin((self.traced, *others))
        if timing.wins() and self.another is not None and self.values.device == "cpu":
            # Once in some thirty times the threads of one process get in each other's way for as long as it lives.
            with self.another() as self.twin:
                timing = min(timing, self._beside_the_twin((self.traced, *others)), key=lambda t: t.low)
        eager_us, kernel_us = self.cold or (0.0, 0.0)
        return dataclasses.replace(timing, eager_cold_us=eager_us, kernel_cold_us=kernel_us)

    def _beside_the_twin(self, several: Sequence[Mapping[str, int]]) -> Timing:
        self._prepare_twin()
        return _mean([self._at(sizes) for sizes in several])

    def _at_sizes(self, sizes: Mapping[str, int]) -> None:
        sub = self.job.subgraph
        self.group = plan.Group(sizes, self.values.kind, 1, plan.UNPOOLED_SLACK)
        self.n_bytes = max(4 * elements(sub, sizes), storage_bytes(sub, sizes))
        self.most_seen = max(_ROWS_CHECKED, min(_ROWS_SEEN, _SEEN_BYTES // max(self.n_bytes, 1)))
        self.threads = None

    def _at(self, sizes: Mapping[str, int]) -> Timing:
        self._at_sizes(sizes)
        timing = self._in_its_process() if self.job.trusted else self._apart()
        self._hold_to_the_roof(timing)
        return timing

    def _ask(self, process: Worker, message: dict[str, Any], blob: bytes = b"") -> dict[str, Any]:
        answer = process.ask({**message, "digest": self.job.candidate.digest}, self.job.timeout_s, blob)
        if "error" in answer:
            raise Failed(Outcome.WRONG, f"while timed: {answer['error']}")
        return answer

    def _hold_to_the_roof(self, timing: Timing) -> None:
        done = work(self.job.subgraph, self.group.sizes)
        claimed_us = min(timing.kernel_us, timing.kernel_device_us or timing.kernel_us)
        least_us, why = self.ceiling.least_us(done, self.footprint)
        if claimed_us < least_us:
            claim = f"claims {claimed_us:.3g} us a call"
            raise Failed(Outcome.REJECTED, f"{claim}: {why} takes {least_us:.3g} us at least here", Trick.TOO_FAST)

    # -- in the candidate's process -----------------------------------------------------------------------------------

    def _in_its_process(self) -> Timing:
        request = {"op": "time", **self._laid_out(), "budget_s": self.job.timing_budget_s, "cold": self.job.want_cold}
        return Timing(*self._ask(self.worker, request)["timing"])

    def race(self, rivals: Sequence[str]) -> list[float | None]:
        """Seconds of a call of the candidate and of each rival, by digest; each has the time of half a verdict."""
        self._at_sizes(self.traced)
        runners = [self.job.candidate.digest, *rivals]
        budget_s = len(runners) * self.job.timing_budget_s / 2
        request = {"op": "race", **self._laid_out(), "runners": runners, "budget_s": budget_s}
        found: list[float | None] = self._ask(self.worker, request)["seconds"]
        return found

    def _laid_out(self) -> dict[str, Any]:
        """The data sets of calls in one process, in its arena, and where it finds them."""
        n_sets = 4 if self.n_bytes < 4 << 20 else 2 if self.n_bytes < 64 << 20 else 1
        self.footprint = n_sets * self.n_bytes
        self.values.arena(self.group.sizes).reset()
        numbers = range(_FIRST_NUMBER, _FIRST_NUMBER + n_sets)
        cases: list[Case] = [self.values.lay_out(self.group, number, with_outputs=False) for number in numbers]
        where = self.values.fill(cases)
        return {"cases": [c.message for c in cases], "where": where}

    # -- in two processes ---------------------------------------------------------------------------------------------

    def _apart(self) -> Timing:
        arenas = [p.arena_on_device() if self.values.device != "cpu" else p.arena for p in (self.worker, self.twin)]
        n_sets = self._n_sets(shared=arenas[0] is not self.worker.arena and arenas[1] is not self.twin.arena)
        rings = [Ring(self.values, self.group, n_sets, arena) for arena in arenas]
        self.footprint = n_sets * rings[0].step
        self.copy_s = 0.0
        kernel, eager = _Side(self.worker, rings[0], is_kernel=True), _Side(self.twin, rings[1], is_kernel=False)
        self.running: _Side | None = None
        with torch.no_grad(), self._alone(kernel, eager):
            for side in (kernel, eager):
                self._turn(side)
                with contextlib.nullcontext() if side.is_kernel else _eagers_own():
                    self._ask(side.process, {"op": "lay", **self._where(side), "layout": self._layout(side)})
                self._length(side)
                self._spread(side.process)
                side.calls = self._length(side)
            self.copy_s = self._copying(eager)
            self.threads = self.worker.census().threads
            sides = {True: kernel, False: eager}

            def measure(is_kernel: bool, n_calls: int, index: int) -> float:
                return self._slope(sides[is_kernel]) * n_calls

            timing = compare(measure, 4 * self.job.timing_budget_s, n_calls=1, differences=True)
            if self.job.want_cold and self.cold is None:
                self.cold = self._cold_us(eager), self._cold_us(kernel)
            self._go_on(kernel)
        return timing

    def _go_on(self, kernel: _Side) -> None:
        """Whoever was right so far does not know that it is over: on a busy machine that may have been a few calls."""
        count, until = kernel.calls, time.perf_counter() + _GO_ON_S
        while True:
            self._round(kernel, count, checked=True)
            if self.called >= self.least_calls or time.perf_counter() > until:
                return
            count = min(2 * count, kernel.ring.n_sets)

    def _cold_us(self, side: _Side) -> float:
        """Microseconds of one call after the caches were flushed, beyond those of an answer without one; 0 if it cannot
        be told apart. The judge flushes them, in a process of its own: they are the same cores', or the same device's.
        """
        caches = HostCaches() if self.values.device == "cpu" else DeviceCaches()
        seconds: dict[int, list[float]] = {0: [], 1: []}
        for _ in range(SAMPLES):
            for count in self.rng.sample((0, 1), 2):
                seconds[count].append(self._round(side, count, flush=caches.flush))
        none, next_best = sorted(seconds[0])[:2]  # whatever else runs only makes samples longer
        cold = min(seconds[1]) - none - self.copy_s
        return cold * 1e6 if cold > _TOLD_APART * (next_best - none) else 0.0

    def _prepare_twin(self) -> None:
        job, candidate_bytes = self.job, self.values.means.candidate_bytes
        blob = pickle.dumps((job.flags, job.subgraph))
        where = {"device": job.device, "ordinal": job.ordinal or 0, "memory_bytes": candidate_bytes}
        with _eagers_own():
            answer = self.twin.ask(
                {"op": "reference", "digest": job.candidate.digest, "threads": job.threads, **where}, _START_S, blob
            )
            if "error" in answer:
                raise Failed(Outcome.NOT_JUDGED, answer["error"])

    def _n_sets(self, *, shared: bool) -> int:
        """How many data sets there are memory for. `shared`: a device's memory is."""
        most = _DEVICE_RING_BYTES if shared else _COPIED_RING_BYTES
        if self.values.device == "cpu":
            most = _HOST_RING_BYTES
        free = self.values.means.limit_bytes
        if free is None:
            free = 16 * self.values.means.limit_elements
        step = layout(self.values, self.group)[2]
        return max(1, min(_MOST_SETS, most // step, free // (5 * step)))  # a ring of each process, as much again here

    def _layout(self, side: _Side) -> dict[str, Any]:
        found = side.ring.message()
        if side.is_kernel and self.job.model is not None:
            found["case"] = {**found["case"], "model": self.job.candidate.digest}
        return found

    def _where(self, side: _Side) -> dict[str, Any]:
        return {"where": {**side.ring.arena.publish(), "device": self.values.device}, "eager": not side.is_kernel}

    @contextlib.contextmanager
    def _alone(self, kernel: _Side, eager: _Side) -> Iterator[None]:
        """While a side is timed the other is stopped. Unless they have threads, both and this process, taking turns,
        keep to one core: on another one, calls take another time.
        """
        allowed = os.sched_getaffinity(0)
        single = self.values.device != "cpu" or self.job.threads == 1
        pids = [0, kernel.process.pid, eager.process.pid] if single else []

        def keep_to(cores: set[int]) -> None:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError, PermissionError):  # it only makes clocks steadier
                    os.sched_setaffinity(pid, cores)

        keep_to({max(allowed)})
        try:
            yield
        finally:
            for process in (kernel.process, eager.process):
                process.thaw()
            keep_to(allowed)

    def _spread(self, process: Worker) -> None:
        """Keep the threads of a process on the host from the core of its first one: left alone, two that wait for each
        other may share a core for milliseconds.
        """
        first, *rest = sorted(os.sched_getaffinity(0))
        if self.values.device != "cpu" or self.job.threads == 1 or not rest:
            return
        for thread in map(int, os.listdir(f"/proc/{process.pid}/task")):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.sched_setaffinity(thread, {first} if thread == process.pid else rest)

    def _turn(self, side: _Side) -> None:
        if self.running is side:
            return
        other = self.twin if side.is_kernel else self.worker
        other.freeze()
        side.process.thaw()
        self.running = side

    def _round(
        self,
        side: _Side,
        count: int,
        *,
        checked: bool = False,
        op: str = "timed",
        flush: Callable[[], None] = lambda: None,
    ) -> float:
        """Seconds until so many calls have been answered. `flush`: is called just before."""
        self._turn(side)
        first = self.rng.randrange(side.ring.n_sets - count + 1)
        side.ring.freshen(first, count)
        rows = self.rng.sample(range(first, first + count), min(count, self.most_seen)) if checked else []
        before = [side.ring.left(row) for row in rows]
        request = {"op": op, **self._where(side), "first": first, "count": count}
        flush()
        with contextlib.nullcontext() if side.is_kernel else _eagers_own():
            start = time.perf_counter()
            answer = self._ask(side.process, request)
            seconds = time.perf_counter() - start
        self.called += count if side.is_kernel else 0
        if rows:
            self._check(side, rows, before, answer)
        if self.threads is not None:
            self._count(side, self.threads)
        return seconds

    def _slope(self, side: _Side, op: str = "timed") -> float:
        """Seconds of one call, without leaving its outputs behind."""
        n = side.calls
        few = self.rng.randint(n // 8, n // 4)  # the first calls of a run are slow ones
        more = self.rng.randint(max(few + 1, n - n // 8), n)
        if self.values.device != "cpu":
            self._round(side, 1)  # the device was another process's until now
        seconds = {}
        for count in self.rng.sample((few, more), 2):
            checked = self.rng.random() < _CHECKED_SHARE
            seconds[count] = self._round(side, count, checked=checked, op=op)
        slope = (seconds[more] - seconds[few]) / (more - few)
        return max(slope - self.copy_s, _LEAST_SHARE * slope, 1e-9)

    def _copying(self, eager: _Side) -> float:
        """Seconds that leaving the outputs of one call behind takes; rather too little than too much, which would make
        every ratio look larger than it is.
        """
        return max(0.0, sorted(self._slope(eager, "copies") for _ in range(_COPY_SAMPLES))[1])

    def _length(self, side: _Side) -> int:
        """How many calls make a run long enough."""
        count, most = 1, side.ring.n_sets
        while True:
            # Twice: the first call of all loads and allocates.
            seconds = min(self._round(side, count), self._round(side, count))
            if seconds >= _LONG_RUN_S / 4 or count == most:
                return max(1, min(most, round(count * _LONG_RUN_S / seconds)))
            count = min(2 * count, most)

    # -- what is not a number -----------------------------------------------------------------------------------------

    def _check(self, side: _Side, rows: list[int], before: list[list[torch.Tensor]], answer: dict[str, Any]) -> None:
        """Raise `Failed` unless the calls on those sets were right, and done when the answer came.

        Eager's, too: what is done between two runs of one side is done between two of the other.
        """
        ring = side.ring
        side.process.freeze()
        left = {row: ring.left(row) for row in rows}
        old = dict(zip(rows, before, strict=True))
        for row in sorted(rows, key=self._distance(ring))[-_ROWS_CHECKED:]:
            case = ring.case(row)
            try:
                self.values.check_call(case, answer)
            except Failed as failed:
                if side.is_kernel:
                    raise self._named(ring, case, old[row], left[row], failed) from None
            if not _same(left[row], ring.left(row)):
                detail = "while timed: an output was not there yet when the call was said to be done"
                raise Failed(Outcome.REJECTED, detail, Trick.UNSYNCHRONISED)
        side.process.thaw()

    def _distance(self, ring: Ring) -> Callable[[int], float]:
        """How far the outputs of a set are from eager's: which to look at, not whether they are right."""

        def distance(row: int) -> float:
            case = ring.case(row)
            eager = self.values.eager_of(case)
            if eager is None:
                return 0.0
            pairs = zip(self.values.outputs(case), eager, strict=True)
            return max((_apart(kernel, wanted) for kernel, wanted in pairs), default=0.0)

        return distance

    def _named(
        self, ring: Ring, case: Case, old: list[torch.Tensor], new: list[torch.Tensor], failed: Failed
    ) -> Failed:
        """What a wrong output of a timed call comes of."""
        text = failed.detail if failed.detail.startswith("while timed") else f"while timed: {failed.detail}"
        self.worker.thaw()
        time.sleep(_LATE_S)
        if not _same(new, ring.left(case.number)):
            detail = f"{text}: it was not there yet when the call was said to be done"
            return Failed(Outcome.REJECTED, detail, Trick.UNSYNCHRONISED)
        if _same(old, new) and any(map(len, new)):
            if all(bool((t == t[:1]).all()) for t in new):
                detail = f"{text}: nothing is written there"
                return Failed(Outcome.WRONG, detail, Trick.UNSYNCHRONISED, Trick.CONSTANT)
            return Failed(Outcome.WRONG, f"{text}: it is the output of an earlier call", Trick.REPLAYS)
        return Failed(Outcome.WRONG, text, Trick.DRIFTS, *failed.tricks)

    def _count(self, side: _Side, warm: int) -> None:
        now = side.process.census()
        if not side.is_kernel:
            return
        if now.threads > warm:
            detail = f"started {now.threads - warm} threads while it was timed"
            raise Failed(Outcome.REJECTED, detail, Trick.THREADS)
        if now.processes > 1:
            detail = f"{now.processes - 1} processes that it started run while it is timed"
            raise Failed(Outcome.REJECTED, detail, Trick.THREADS)


@contextlib.contextmanager
def _eagers_own() -> Iterator[None]:
    """What eager's process does wrong (it refuses an input, or was ended by the host) is not the candidate's doing."""
    try:
        yield
    except Failed as failed:
        raise Failed(Outcome.NOT_JUDGED, f"eager cannot be timed: {failed.detail}") from None


def _mean(timings: Sequence[Timing]) -> Timing:
    """The geometric mean, as careful as the most careful of them: each interval's ends are averaged, and where one of
    them says nothing, nothing is said.
    """
    if len(timings) == 1:
        return timings[0]

    def mean(values: Sequence[float]) -> float:
        return math.exp(statistics.fmean(map(math.log, values))) if all(v > 0 for v in values) else 0.0

    found = Timing(*map(mean, zip(*(dataclasses.astuple(t) for t in timings), strict=True)))
    unclear = any(t.low <= 1.0 < t.ratio for t in timings)
    return dataclasses.replace(found, low=min(found.low, 1.0)) if unclear else found


def _apart(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference of two tensors of one dtype; infinite where only one of them is NaN."""
    if a.numel() == 0 or torch.equal(a, b):
        return 0.0
    if not (a.dtype.is_floating_point or a.dtype.is_complex):
        return float((a != b).sum())
    a, b = (t.to(torch.complex64 if t.dtype.is_complex else torch.float32) for t in (a, b))
    differences = (a - b).abs()
    differences[(a == b) | (a.isnan() & b.isnan())] = 0.0
    return float(differences.nan_to_num(math.inf, math.inf).max())


def _same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
