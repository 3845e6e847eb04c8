"""How a candidate's speed is measured: beside eager in its own process if rules wrote it, by the judge's clock if not.

A candidate that may cheat and eager run in two processes that are alike, each called from here: a random number of
times, on inputs that neither has seen before (`ring`), and time is the slope between two such numbers. Every output is
in the judge's memory when the answer comes, and some are checked. While one of the two is timed the other is stopped,
so that neither's threads can stand in the other's way, and who starts threads or processes meanwhile is found out.

A claim that the hardware cannot keep is rejected: see `profiler.roofline`.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import random
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from akg_dynamo.agents.profiler.abba import compare
from akg_dynamo.agents.profiler.roofline import Ceiling, work
from akg_dynamo.agents.verifier import plan
from akg_dynamo.agents.verifier.job import Job
from akg_dynamo.agents.verifier.ring import Ring, layout
from akg_dynamo.agents.verifier.shapes import elements, storage_bytes
from akg_dynamo.agents.verifier.values import Case, Values
from akg_dynamo.agents.verifier.workers import Failed, Worker
from akg_dynamo.core.types import Outcome, Timing, Trick

_FIRST_NUMBER = 1_000_000  # of the cases that are timed: other inputs than those judged
_MOST_SETS = 1024
_RING_BYTES = {"cpu": 64 << 20, "cuda": 4 << 30}
_COPIED_RING_BYTES = 8 << 20  # where the arena is not in the device's memory
_CHECKED_SHARE = 0.2
_ROWS_CHECKED = 2
_LONG_RUN_S = 0.005
_COPY_SAMPLES = 5
_LEAST_SHARE = 0.25  # of a call's time that is not the copying of its outputs
_LATE_S = 0.05
_START_S = 60.0


@dataclass
class _Side:
    """The candidate's process, or eager's. `calls`: how many make a run long enough."""

    process: Worker
    ring: Ring
    is_kernel: bool
    calls: int = 1


class Stopwatch:
    """Times one job on the first of the sizes it is judged on. `twin`: a process that has never seen the candidate."""

    def __init__(self, worker: Worker, twin: Worker, job: Job, values: Values, ceiling: Ceiling) -> None:
        sizes = plan.traced(job.subgraph, job.seed, values.means)
        if sizes is None:
            raise Failed(Outcome.NOT_JUDGED, "too big to be timed in the memory there is")
        self.worker = worker
        self.twin = twin
        self.job = job
        self.values = values
        self.ceiling = ceiling
        self.threads: int | None = None  # of the candidate's process, once it is warm
        self.footprint = 0  # bytes of all data sets in turn
        self.rng = random.Random(f"{job.seed}/timing")
        self.group = plan.Group(sizes, values.kind, 1, plan.UNPOOLED_SLACK)
        self.n_bytes = max(4 * elements(job.subgraph, sizes), storage_bytes(job.subgraph, sizes))

    def measure(self) -> Timing:
        """The verdict on speed."""
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
        n_sets = 4 if self.n_bytes < 4 << 20 else 2 if self.n_bytes < 64 << 20 else 1
        self.footprint = n_sets * self.n_bytes
        self.values.arena(self.group.sizes).reset()
        numbers = range(_FIRST_NUMBER, _FIRST_NUMBER + n_sets)
        cases: list[Case] = [self.values.lay_out(self.group, number, with_outputs=False) for number in numbers]
        where = self.values.fill(cases)
        request = {"op": "time", "cases": [c.message for c in cases], "where": where}
        return Timing(*self._ask(self.worker, {**request, "budget_s": self.job.timing_budget_s})["timing"])

    # -- in two processes ---------------------------------------------------------------------------------------------

    def _apart(self) -> Timing:
        self._prepare_twin()
        arenas = [p.arena_on_device() if self.values.device != "cpu" else p.arena for p in (self.worker, self.twin)]
        n_sets = self._n_sets(on_device=arenas[0].device.type != "cpu")
        rings = [Ring(self.values, self.group, n_sets, arena) for arena in arenas]
        self.footprint = n_sets * rings[0].step
        self.copy_s = 0.0
        kernel, eager = _Side(self.worker, rings[0], is_kernel=True), _Side(self.twin, rings[1], is_kernel=False)
        self.running: _Side | None = None
        with torch.no_grad(), self._alone(kernel, eager):
            for side in (kernel, eager):
                self._turn(side)
                self._ask(side.process, {"op": "lay", **self._where(side), "layout": self._layout(side)})
                side.calls = self._length(side)
            self.copy_s = self._copying(eager)
            self.threads = self.worker.census().threads
            sides = {True: kernel, False: eager}

            def measure(is_kernel: bool, n_calls: int, index: int) -> float:
                return self._slope(sides[is_kernel]) * n_calls

            timing = compare(measure, 4 * self.job.timing_budget_s, n_calls=1, differences=True)
            self._round(kernel, kernel.calls, checked=True)  # whoever was right so far does not know that it is over
        return timing

    def _prepare_twin(self) -> None:
        job, candidate_bytes = self.job, self.values.means.candidate_bytes
        blob = pickle.dumps((job.flags, job.subgraph))
        where = {"device": job.device, "ordinal": job.ordinal or 0, "memory_bytes": candidate_bytes}
        answer = self.twin.ask(
            {"op": "reference", "digest": job.candidate.digest, "threads": job.threads, **where}, _START_S, blob
        )
        if "error" in answer:
            raise Failed(Outcome.NOT_JUDGED, f"eager cannot be timed: {answer['error']}")

    def _n_sets(self, *, on_device: bool) -> int:
        device = self.values.device
        most = _RING_BYTES[device] if device == "cpu" or on_device else _COPIED_RING_BYTES
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
        """While a side is timed the other is stopped; on a device both and this process, which take turns, keep to one
        core: on another one, calls take another time.
        """
        allowed = os.sched_getaffinity(0)
        pids = [0, kernel.process.pid, eager.process.pid] if self.values.device != "cpu" else []
        for pid in pids:
            os.sched_setaffinity(pid, {max(allowed)})
        try:
            yield
        finally:
            for process in (kernel.process, eager.process):
                process.thaw()
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.sched_setaffinity(pid, allowed)

    def _turn(self, side: _Side) -> None:
        if self.running is side:
            return
        other = self.twin if side.is_kernel else self.worker
        other.freeze()
        side.process.thaw()
        self.running = side

    def _round(self, side: _Side, count: int, *, checked: bool = False, op: str = "timed") -> float:
        """Seconds until so many calls have been answered."""
        self._turn(side)
        first = self.rng.randrange(side.ring.n_sets - count + 1)
        side.ring.freshen(first, count)
        rows = self.rng.sample(range(first, first + count), min(count, _ROWS_CHECKED)) if checked else []
        before = [side.ring.left(row) for row in rows]
        request = {"op": op, **self._where(side), "first": first, "count": count}
        start = time.perf_counter()
        answer = self._ask(side.process, request)
        seconds = time.perf_counter() - start
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
        """Seconds that leaving the outputs of one call behind takes."""
        return max(0.0, statistics.median(self._slope(eager, "copies") for _ in range(_COPY_SAMPLES)))

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
        left = [ring.left(row) for row in rows]
        for row, old, new in zip(rows, before, left, strict=True):
            case = ring.case(row)
            try:
                self.values.check_call(case, answer)
            except Failed as failed:
                if side.is_kernel:
                    raise self._named(ring, case, old, new, failed) from None
            if not _same(new, ring.left(row)):
                detail = "while timed: an output was not there yet when the call was said to be done"
                raise Failed(Outcome.REJECTED, detail, Trick.UNSYNCHRONISED)
        side.process.thaw()

    def _named(
        self, ring: Ring, case: Case, old: list[torch.Tensor], new: list[torch.Tensor], failed: Failed
    ) -> Failed:
        """What a wrong output of a timed call comes of."""
        self.worker.thaw()
        time.sleep(_LATE_S)
        if not _same(new, ring.left(case.number)):
            detail = f"{failed.detail}: it was not there yet when the call was said to be done"
            return Failed(Outcome.REJECTED, detail, Trick.UNSYNCHRONISED)
        if _same(old, new) and any(len(t) for t in new):
            return Failed(Outcome.WRONG, f"{failed.detail}: it is the output of an earlier call", Trick.REPLAYS)
        return Failed(Outcome.WRONG, failed.detail, Trick.DRIFTS, *failed.tricks)

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


def _same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
