"""How a candidate's speed is measured: beside eager in its own process if rules wrote it, by the judge's clock if not.

A candidate that may cheat is called from here, a random number of times, and time is the slope between two such
numbers; eager runs in a process that has never seen it. On a device, calls go through so many data sets that none is
still in the cache when its turn comes again, and the outputs of some timed calls are asked for afterwards and checked.
"""

from __future__ import annotations

import pickle
import random
import time
from collections.abc import Callable
from typing import Any

import torch

from akg_dynamo.agents.profiler.abba import compare
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

RoundTrip = Callable[[int, int], float]
"""`round_trip(count, index)`: seconds until so many calls, beginning with that data set, have been answered."""


class Stopwatch:
    """Times one job on the first of the sizes it is judged on."""

    def __init__(self, workers: Workers, worker: Worker, job: Job, values: Values) -> None:
        groups = plan.groups(job.subgraph, job.seed, values.means)
        if not groups:
            raise Failed(Outcome.NOT_JUDGED, "too big to be timed in the memory there is")
        self.workers = workers
        self.worker = worker
        self.job = job
        self.values = values
        self.rng = random.Random(job.seed)
        self.group = plan.Group(groups[0].sizes, "normal", 1, plan.UNPOOLED_SLACK)
        sizes = self.group.sizes
        self.n_bytes = max(4 * elements(job.subgraph, sizes), storage_bytes(job.subgraph, sizes))

    def measure(self) -> Timing:
        """The verdict on speed."""
        if not self.job.trusted and self.values.device != "cpu":
            return self._apart_on_device()
        n_sets = 4 if self.n_bytes < 4 << 20 else 2 if self.n_bytes < 256 << 20 else 1
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
            kept = repeat(self.values.eager, sets, index, count, keep)
            torch.cuda.synchronize()
            seconds = time.perf_counter() - start
            kept.clear()
            return seconds

        def kernel(count: int, index: int) -> float:
            request = {"op": "calls", "cases": messages, "where": where, "first": index, "count": count, "keep": keep}
            start = time.perf_counter()
            self._ask(self.worker, {**request, "eager": False})
            seconds = time.perf_counter() - start
            if self.rng.random() < _CHECKED_SHARE:
                self._check(cases, where, index, count, min(keep, count))
            return seconds

        with torch.no_grad():
            return self._compare(eager, kernel)

    def _check(self, cases: list[Case], where: dict[str, Any], first: int, count: int, kept: int) -> None:
        """Ask for what one of the last calls returned: which, the candidate could not know."""
        back = self.rng.randrange(kept)
        case = cases[(first + count - 1 - back) % len(cases)]
        answer = self._ask(self.worker, {"op": "kept", "back": back, "places": case.places[0], "where": where})
        self.values.check_call(case, answer)
