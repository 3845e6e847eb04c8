"""How a candidate's speed is measured: beside eager in its own process if rules wrote it, by the judge's clock if not.

A candidate that may cheat is called from here, a random number of times, and time is the slope between two such
numbers; eager runs in a process that has never seen it. On a device, calls go through so many data sets that none is
still in the cache when its turn comes again, and the outputs of some timed calls are asked for afterwards and checked.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import random
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from akg_dynamo.agents.profiler.abba import Measure, compare
from akg_dynamo.agents.verifier import plan
from akg_dynamo.agents.verifier.job import Job
from akg_dynamo.agents.verifier.shapes import elements, storage_bytes
from akg_dynamo.agents.verifier.values import Case, Values
from akg_dynamo.agents.verifier.worker import repeat
from akg_dynamo.agents.verifier.workers import Failed, Worker, Workers
from akg_dynamo.core.types import Outcome, Timing

_SPIN_S = 0.004
_FIRST_NUMBER = 1_000_000  # of the cases that are timed: other inputs than those judged
_MOST_SETS = 64
_MOST_KEPT = 16
_CHECKED_SHARE = 0.2
_LONG_RUN_S = 0.004
_MOST_CALLS = 4096

RoundTrip = Callable[[int, int], float]
"""`round_trip(count, index)`: seconds until so many calls, beginning with that data set, have been answered."""


class Stopwatch:
    """Times one job on the first of the sizes it is judged on."""

    def __init__(self, workers: Workers, worker: Worker, job: Job, values: Values) -> None:
        sizes = plan.traced(job.subgraph, job.seed, values.means)
        if sizes is None:
            raise Failed(Outcome.NOT_JUDGED, "too big to be timed in the memory there is")
        self.workers = workers
        self.worker = worker
        self.job = job
        self.values = values
        self.rng = random.Random(job.seed)
        self.group = plan.Group(sizes, "normal", 1, plan.UNPOOLED_SLACK)
        self.n_bytes = max(4 * elements(job.subgraph, sizes), storage_bytes(job.subgraph, sizes))

    def measure(self) -> Timing:
        """The verdict on speed."""
        if not self.job.trusted and self.values.device != "cpu":
            return self._apart_on_device()
        n_sets = 4 if self.n_bytes < 4 << 20 else 2 if self.n_bytes < 64 << 20 else 1
        cases, where = self._lay_out(n_sets, with_outputs=False)
        if self.job.trusted:
            request = {"op": "time", "cases": [c.message for c in cases], "where": where}
            return Timing(*self._ask(self.worker, {**request, "budget_s": self.job.timing_budget_s})["timing"])
        return self._apart(cases, where)

    def _lay_out(self, n_sets: int, with_outputs: bool) -> tuple[list[Case], dict[str, Any]]:
        self.values.arena(self.group.sizes).reset()
        numbers = range(_FIRST_NUMBER, _FIRST_NUMBER + n_sets)
        cases = [self.values.lay_out(self.group, number, with_outputs) for number in numbers]
        return cases, self.values.fill(cases)

    def _ask(self, process: Worker, message: dict[str, Any], blob: bytes = b"") -> dict[str, Any]:
        answer = process.ask({**message, "digest": self.job.candidate.digest}, self.job.timeout_s, blob)
        if "error" in answer:
            raise Failed(Outcome.WRONG, f"while timed: {answer['error']}")
        return answer

    def _compare(self, eager: RoundTrip, kernel: RoundTrip) -> Timing:
        def measure(is_kernel: bool, n_calls: int, index: int) -> float:
            round_trip = kernel if is_kernel else eager
            few = self.rng.randint(1, max(1, n_calls // 4))
            more = few + n_calls + self.rng.randint(0, max(1, n_calls // 4))
            slope = (round_trip(more, index) - round_trip(few, index)) / (more - few)
            return max(slope, 1e-9) * n_calls

        return compare(measure, 4 * self.job.timing_budget_s, differences=True)

    def _apart(self, cases: list[Case], where: dict[str, Any]) -> Timing:
        """Eager in a process of its own."""
        other = self.workers.start()
        running = [self.worker]
        try:
            other.arena.map(self.worker.arena.size)
            other.arena.bytes.copy_(self.worker.arena.bytes)
            blob = pickle.dumps((self.job.flags, self.job.subgraph))
            self._ask(other, {"op": "reference", "threads": self.job.threads}, blob)

            def round_trip(process: Worker) -> RoundTrip:
                def timed(count: int, index: int) -> float:
                    if process is not running[0]:
                        time.sleep(_SPIN_S)  # the other one's threads spin for a while on the same cores
                        running[0] = process
                    case = cases[index % len(cases)].message
                    request = {"op": "calls", "cases": [case], "where": where, "first": 0, "count": count, "keep": 0}
                    start = time.perf_counter()
                    self._ask(process, {**request, "eager": process is other})
                    return time.perf_counter() - start

                return timed

            return self._compare(round_trip(other), round_trip(self.worker))
        finally:
            if other.alive:
                other.end()

    def _apart_on_device(self) -> Timing:
        """Eager in this process, which has a context on the device."""
        cache_bytes = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
        in_memory = max(1, self.values.means.limit_elements * 4 // (4 * max(self.n_bytes, 1)))
        n_sets = max(1, min(_MOST_SETS, in_memory, 2 + 2 * cache_bytes // max(self.n_bytes, 1)))
        cases, where = self._lay_out(n_sets, with_outputs=True)
        messages = [c.message for c in cases]
        keep = max(1, min(_MOST_KEPT, self.values.means.candidate_bytes // (4 * max(self.n_bytes, 1))))
        sets = [self.values.arguments(case) for case in cases]

        def eager(count: int, index: int) -> float:
            torch.cuda.synchronize()
            start = time.perf_counter()
            kept = repeat(self.values.truth.run_eager, sets, index, count, keep)
            torch.cuda.synchronize()
            seconds = time.perf_counter() - start
            kept.clear()
            return seconds

        def kernel(count: int, index: int) -> float:
            request = {"op": "calls", "cases": messages, "where": where, "first": index, "count": count, "keep": keep}
            start = time.perf_counter()
            self._ask(self.worker, {**request, "eager": False})
            seconds = time.perf_counter() - start
            if count > 1 and self.rng.random() < _CHECKED_SHARE:
                self._check(cases, where, index, count, min(keep, count))
            return seconds

        with torch.no_grad(), _on_one_core(self.worker.pid):
            measure = self._slopes({False: eager, True: kernel})
            return compare(measure, 4 * self.job.timing_budget_s, n_calls=1, differences=True)

    def _slopes(self, round_trips: Mapping[bool, RoundTrip]) -> Measure:
        """Seconds per call, from a short run and a long one, so long that what waking up takes is little."""
        lengths = {who: _length(round_trip) for who, round_trip in round_trips.items()}

        def measure(is_kernel: bool, n_calls: int, index: int) -> float:
            round_trip, n = round_trips[is_kernel], lengths[is_kernel]
            few = self.rng.randint(1 + n // 8, 1 + n // 4)
            more = few + n + self.rng.randint(0, n // 4)
            round_trip(1, index)  # the device was the other process's until now
            first, last = self.rng.choice(((few, more), (more, few)))
            seconds = {first: round_trip(first, index), last: round_trip(last, index)}
            return max((seconds[more] - seconds[few]) / (more - few), 1e-9) * n_calls

        return measure

    def _check(self, cases: list[Case], where: dict[str, Any], first: int, count: int, kept: int) -> None:
        """Ask for what one of the last calls returned: which, the candidate could not know."""
        back = self.rng.randrange(kept)
        case = cases[(first + count - 1 - back) % len(cases)]
        answer = self._ask(self.worker, {"op": "kept", "back": back, "places": case.places[0], "where": where})
        self.values.check_call(case, answer)


def _length(round_trip: RoundTrip) -> int:
    """How many calls make a run long enough."""
    count = 1
    # Twice: the first call of all loads and allocates.
    while min(round_trip(count, 0), round_trip(count, 0)) < _LONG_RUN_S / 2 and count < _MOST_CALLS:
        count *= 2
    return count


@contextlib.contextmanager
def _on_one_core(pid: int) -> Iterator[None]:
    """Keep this process and that one, which take turns, on the same core: on another one, calls take another time."""
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(pid, {max(allowed)})
        os.sched_setaffinity(0, {max(allowed)})
        yield
    finally:
        os.sched_setaffinity(0, allowed)
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(pid, allowed)
