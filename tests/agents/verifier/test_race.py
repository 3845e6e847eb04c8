"""Which variant is the fastest, asked of the judge."""

from __future__ import annotations

import math

import pytest

from akg_dynamo.agents.verifier import Judge
from akg_dynamo.core.errors import JudgeError
from akg_dynamo.core.types import Outcome

from .kernels import add_relu, candidate, job

ONCE = "return (torch.relu(args[0] + args[1]),)"
TEN_TIMES = "for _ in range(10): out = torch.relu(args[0] + args[1])\nreturn (out,)"
RAISES = "raise RuntimeError('no')"


def test_the_costs_of_a_candidate_and_its_rivals(judge: Judge) -> None:
    rivals = [candidate(body) for body in (ONCE, RAISES, TEN_TIMES + "  # too")]
    for _ in range(5):  # on a busy machine, whatever else runs may fall on one of them
        slow, fast, raises, slow_too = judge.race(job(add_relu(100_000), TEN_TIMES), rivals).result(timeout=300)
        assert raises == math.inf
        assert fast > 0
        if min(slow, slow_too) > 2 * fast:
            break
    assert min(slow, slow_too) > 2 * fast


def test_a_race_in_which_nobody_can_run(judge: Judge) -> None:
    assert judge.race(job(add_relu(), RAISES), []).result(timeout=300) == [math.inf]


def test_who_takes_the_process_down_ends_the_race_and_no_more(judge: Judge) -> None:
    racing = judge.race(job(add_relu(), ONCE), [candidate("import os; os._exit(3)")])
    with pytest.raises(JudgeError, match="exited"):
        racing.result(timeout=300)
    assert judge.judge([job(add_relu(), ONCE)])[0].outcome is Outcome.RIGHT


def test_a_race_keeps_to_the_memory_that_judging_may_take(judge: Judge) -> None:
    sub = add_relu(100_000)  # 1.2 MB of inputs and outputs
    with pytest.raises(JudgeError, match="too big to be timed"):
        judge.race(job(sub, ONCE, memory_bytes=1 << 20), []).result(timeout=300)
    assert judge.race(job(sub, ONCE, memory_bytes=1 << 25), []).result(timeout=300)[0] < math.inf


def test_a_race_says_nothing_about_values(judge: Judge) -> None:
    wrong = "return (args[0] + args[1],)"
    assert len(judge.race(job(add_relu(), ONCE), [candidate(wrong)]).result(timeout=300)) == 2
    assert judge.judge([job(add_relu(), wrong)])[0].outcome is Outcome.WRONG
