"""Many candidates, one after another: what breaks ends as a verdict, and nothing is left behind."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from akg_dynamo.agents.verifier import Job, Judge
from akg_dynamo.core.types import Outcome

from .kernels import add_relu, candidate, job
from .settling import settled

RIGHT = "return (torch.relu(args[0] + args[1]),)"
BREAKING = {
    "hangs": ("while True: pass", 2.0, {Outcome.TIMED_OUT}),
    "forks without end": (
        "import os\nwhile True: os.fork()",
        2.0,
        {Outcome.WRONG, Outcome.CRASHED, Outcome.TIMED_OUT, Outcome.REJECTED},
    ),
    "allocates without end": (
        "kept = []\nwhile True: kept.append(torch.ones(1 << 26))",
        2.0,
        {Outcome.WRONG, Outcome.CRASHED, Outcome.TIMED_OUT, Outcome.REJECTED},
    ),
    "segmentation fault": ("import ctypes; ctypes.string_at(0)", 60.0, {Outcome.CRASHED}),
    "exits": ("import os; os._exit(0)", 60.0, {Outcome.CRASHED}),
}
PHASES = {"spawn", "import", "values", "oracle", "timing"}


def below(pid: int) -> Iterator[int]:
    """It and all processes below it."""
    yield pid
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as children:
                for child in map(int, children.read().split()):
                    yield from below(child)


def running(judge: Judge) -> dict[int, int]:
    """How many files each of its processes has open."""
    found = {}
    for pid in below(judge.pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found[pid] = len(os.listdir(f"/proc/{pid}/fd"))
    return found


def held(judge: Judge) -> tuple[int, int, int]:
    """How many processes there are, how many files they have open, and their memory, shared pages by share: not that
    of files, which other programs share or not.
    """
    files, memory = settled(lambda: running(judge)), 0
    for pid in files:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as lines:
            sizes = {name: int(size) << 10 for name, size, *_ in (line.split() for line in lines) if name[-1] == ":"}
        memory += sizes.get("Pss_Anon:", sizes["Pss:"])  # Linux before 5.4 does not tell the two apart
    return len(files), sum(files.values()), memory


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("name", BREAKING)
def test_what_breaks_ends_in_its_time_and_the_next_one_is_judged(judge: Judge, name: str, trusted: bool) -> None:
    body, timeout_s, outcomes = BREAKING[name]
    good = job(add_relu(), RIGHT)
    judge.judge([good])
    started = time.perf_counter()
    broken, after = judge.judge([replace(job(add_relu(), body), trusted=trusted, timeout_s=timeout_s), good])
    assert broken.outcome in outcomes, broken
    assert after.outcome is Outcome.RIGHT, after
    assert time.perf_counter() - started < 30  # with time for a busy machine: each was given two seconds, or needs none


def mixed(n: int, first: int) -> list[Job]:
    """Kernels, one in ten of them unknown, each another one, one in twenty wrong."""
    found = []
    for i in range(first, first + n):
        body = f"{RIGHT}  # {i % 100}" if i % 20 else f"return (args[0] - args[1],)  # {i % 100}"
        one = job(add_relu(2000), body, seed=i, want_timing=i % 4 == 0, timing_budget_s=0.002, threads=1)
        found.append(replace(one, trusted=i % 10 != 5))
    return found


def test_a_batch_of_a_hundred_leaves_nothing_behind(judge: Judge) -> None:
    judge.judge(mixed(100, 0))
    processes, files, memory = held(judge)
    verdicts = judge.judge(mixed(100, 1000))
    assert [v.outcome is Outcome.RIGHT for v in verdicts] == [i % 20 != 0 for i in range(100)]
    after = held(judge)
    assert after[:2] == (processes, files)
    assert after[2] < 1.05 * memory


def test_a_verdict_says_what_its_phases_took(judge: Judge) -> None:
    (verdict,) = judge.judge([job(add_relu(), RIGHT, want_timing=True)])
    phases = dict(verdict.phases)
    assert phases.keys() == PHASES
    assert all(seconds >= 0 for seconds in phases.values())
    assert sum(phases.values()) <= 1.1 * (verdict.judge_s + verdict.build_s)


@pytest.mark.conformance
@pytest.mark.timeout(600)
def test_memory_after_a_thousand_verdicts_is_that_after_a_hundred(judge: Judge) -> None:
    jobs = [replace(one, candidate=candidate(RIGHT)) for one in mixed(1000, 0)]
    judge.judge(jobs[:100])
    first = held(judge)
    judge.judge(jobs[100:])
    last = held(judge)
    assert last[:2] == first[:2]
    assert last[2] == pytest.approx(first[2], rel=0.05)
