"""What a candidate whose outputs are wrong has tried: its worst case is asked about again, in a process of its own.

A wrong output says that something is wrong; what, its neighbourhood says. Is the case right when it is the first one,
or when its outputs are read a moment later? Do they change with what lies beside the inputs? Are those inputs right
that the task itself gives?
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch

from akg_dynamo.agents.verifier import luck, plan
from akg_dynamo.agents.verifier.answers import check_answers
from akg_dynamo.agents.verifier.case import Case
from akg_dynamo.agents.verifier.diagnosis import diagnose, is_one_of
from akg_dynamo.agents.verifier.job import Job
from akg_dynamo.agents.verifier.model_inputs import GIVEN
from akg_dynamo.agents.verifier.values import Values
from akg_dynamo.agents.verifier.workers import Failed, Worker
from akg_dynamo.core.types import Trick

Start = Callable[[tuple[str, int] | None], tuple[Worker, Values]]
"""`start(watch)`: the candidate loaded in a new process, and its values there."""

UNSEEN = "something that is no kernel of its own"
"""Who computes where nobody was seen to: the candidate's Python, or what it has started."""
_ORDINARY = (GIVEN, "normal", "positive")
_FIRST_NUMBER = 40_000  # of the cases that are tried here and nowhere else
_LATE_S = 0.4
_AT_ONCE_S = 0.7
_PAUSE_S = 0.01
_CALLS_AT_ONCE, _CALLS_LATE = 50, 3
_CRASHES = ("SIGSEGV", "SIGABRT", "SIGBUS")  # of who writes into memory that has been given back meanwhile
_ZONES = (0xFF, 0x00)  # what may lie beside an input: NaN, or zero
_VAGUE = (Trick.VALUES, Trick.STALE_MEMORY, Trick.OUTLIERS)
"""What may be what it looks like, or come of something else."""


class Naming:
    """One job's. `group`: cases of the sizes that the task was traced at."""

    def __init__(self, job: Job, values: Values, start: Start, group: plan.Group) -> None:
        self.job = job
        self.values = values
        self.start = start
        self.group = group

    def tricks(self, failed: Failed) -> tuple[Trick, ...]:
        """What a candidate that was wrong seems to have tried, where the verdict does not say it yet."""
        values = self.values
        lost_a_race = (
            failed.tricks == (Trick.DRIFTS,) or failed.detail.endswith(_CRASHES) or failed.detail.startswith(UNSEEN)
        )
        if lost_a_race and values.suspect is not None:
            return (Trick.UNSYNCHRONISED,) if self._is_unfinished(values.suspect) else failed.tricks
        if failed.tricks:
            return failed.tricks
        found = [(case, trick) for case in values.last if (trick := self._looks_like(case)) is not None]
        if not found:
            return (Trick.VALUES,)
        case, trick = found[0]
        if trick is Trick.CONSTANT:
            return (trick,)
        known = [*values.earlier, *((c, values.outputs(c)) for c in values.last)]
        # Neighbours of a case, a few last bits away, have its number, and nearly its outputs.
        others = [old for c, old in known if (c.number, c.group.kind) != (case.number, case.group.kind)]
        if is_one_of(values.outputs(case), others):
            return (Trick.REPLAYS,)
        if trick is Trick.STALE_MEMORY and self._is_unfinished(case):
            return (Trick.UNSYNCHRONISED,)
        with self._again() as again:
            return again.of_case(case, trick) if again is not None else (trick,)

    def _is_unfinished(self, case: Case) -> bool:
        """Whether it is right whenever somebody waits after the call, and otherwise not: it may win the race."""
        with self._again() as again:
            if again is None or not again.fails_at_once(case):
                return False
        with self._again() as again:
            return again is not None and again.is_right_late(case)

    def _looks_like(self, case: Case) -> Trick | None:
        values = self.values
        wanted = values.eager_of(case)
        return None if wanted is None else diagnose(values.outputs(case), values.inputs_of(case), wanted)

    @contextlib.contextmanager
    def _again(self) -> Iterator[_Again | None]:
        """A process that has seen nothing yet; None where the candidate does not start."""
        try:
            worker, values = self.start(None)
        except Failed:
            yield None
            return
        try:
            yield _Again(self.job, worker, values, self.group)
        finally:
            if worker.alive:
                worker.end()


class _Again:
    """The candidate in a process of its own."""

    def __init__(self, job: Job, worker: Worker, values: Values, group: plan.Group) -> None:
        self.job = job
        self.worker = worker
        self.values = values
        self.group = group

    def of_case(self, case: Case, looks_like: Trick) -> tuple[Trick, ...]:
        """What is behind a case that looks like that trick."""
        group, number = replace(case.group, repeat=False), case.number
        if self._is_right(group, number):
            return (Trick.DRIFTS,)
        if looks_like not in _VAGUE:
            return (looks_like,)
        if self._reads_beside(group, number):
            return (Trick.OUT_OF_BOUNDS,)
        special = self._of_special(group, looks_like)
        return special or (looks_like,)

    def fails_at_once(self, case: Case) -> bool:
        """Whether it is wrong now and then when its outputs are read at once."""
        self._keep_to_one_core()
        until = time.perf_counter() + _AT_ONCE_S
        for _ in range(_CALLS_AT_ONCE):
            time.sleep(_PAUSE_S)  # who computes nothing when in a hurry is not late
            if not self._is_right(replace(case.group, repeat=False), case.number):
                return True
            if time.perf_counter() > until:
                break
        return False

    def is_right_late(self, case: Case) -> bool:
        """Whether it never is when they are read a moment later."""
        group = replace(case.group, repeat=False)
        return all(self._is_right(group, case.number, late_s=_LATE_S) for _ in range(_CALLS_LATE))

    def _keep_to_one_core(self) -> None:
        """Where a thread that works on after the call comes too late more often."""
        core = {max(os.sched_getaffinity(0))}
        for thread in map(int, os.listdir(f"/proc/{self.worker.pid}/task")):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.sched_setaffinity(thread, core)

    def _of_special(self, group: plan.Group, looks_like: Trick) -> tuple[Trick, ...]:
        """Whether only some sizes, or inputs of some kind, are wrong."""
        other_sizes = group.sizes != self.group.sizes
        special = other_sizes or group.kind not in _ORDINARY or self.values.model is not None
        if looks_like is Trick.OUTLIERS or not special:
            return ()
        if self.values.model is not None:
            own = (group.kind, group.layout, other_sizes) == (GIVEN, None, False)
            if own or not self._is_right(replace(self.group, kind=GIVEN), _FIRST_NUMBER):
                return ()
        if other_sizes or group.layout is not None:
            return (Trick.SHAPE, looks_like) if looks_like is Trick.STALE_MEMORY else (Trick.SHAPE,)
        # Of a task that gives no example, nothing is known of what is ordinary.
        return (Trick.STRUCTURE,) if self.values.model is not None else (Trick.STRUCTURE, Trick.PRECISION)

    def _reads_beside(self, group: plan.Group, number: int) -> bool:
        """Whether its outputs follow what lies beside its inputs."""
        first, second, third = (self._outputs(group, number, zone=zone) for zone in (*_ZONES, _ZONES[0]))
        if first is None or second is None or third is None:
            return False
        return _same(first, third) and not _same(first, second)

    def _is_right(self, group: plan.Group, number: int, *, late_s: float = 0.0) -> bool:
        values = self.values
        contract = values.contract(group.slack)
        try:
            case, calls = self._called(group, number, late_s=late_s)
            wanted = values.expected(case)
            if isinstance(wanted, Exception) or "raised" in calls[0]:
                return False
            values.compare(case, wanted, calls, contract)
        except Failed:
            return False
        return luck.breaks_alone(values, case, contract) is None

    def _outputs(self, group: plan.Group, number: int, *, zone: int) -> list[torch.Tensor] | None:
        try:
            case, calls = self._called(group, number, zone=zone)
        except Failed:
            return None
        return [t.clone() for t in self.values.outputs(case)] if "outputs" in calls[0] else None

    def _called(
        self, group: plan.Group, number: int, *, late_s: float = 0.0, zone: int = 0xFF
    ) -> tuple[Case, list[dict[str, Any]]]:
        """One call, its outputs taken so long after it has returned. `zone`: what lies beside the inputs."""
        values = self.values
        values.arena(group.sizes).reset()
        case = values.lay_out(group, number)
        where = values.fill([case], zone=zone)
        asked = {"op": "run", "digest": self.job.candidate.digest, "cases": [case.message], "late_s": late_s}
        answer = self.worker.ask({**asked, "where": where}, self.job.timeout_s)
        check_answers(answer, [len(case.places)])
        return case, answer["answers"][0]


def _same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(bool(((x == y) | (x.isnan() & y.isnan())).all()) for x, y in zip(a, b, strict=True))
