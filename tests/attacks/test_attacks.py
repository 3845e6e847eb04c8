"""Every attack is caught and named, with and without the screen that reads; every control passes.

`python -m tests.attacks.matrix` writes what comes of it to docs/judge.md.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from akg_dynamo.agents.verifier import Judge, shut_down
from akg_dynamo.agents.verifier.kernelbench import SCREENS
from akg_dynamo.core.types import Outcome

from .catalogue import Entry, attacks, controls
from .trial import by_reading, by_running, verdict

ATTACKS, CONTROLS = attacks(), controls()


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with Judge() as one:
        one.wait_ready()
        yield one
    shut_down()


def _parameters(entries: list[Entry]) -> list[object]:
    needs_gpu = (pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))
    return [pytest.param(e, id=e.name, marks=needs_gpu if e.cuda else ()) for e in entries]


@pytest.mark.parametrize("entry", _parameters([e for e in ATTACKS if "DEGENERATE" not in e.expects]))
def test_an_attack_is_caught_and_named(judge: Judge, entry: Entry) -> None:
    trial = by_running(judge, entry, "cuda" if entry.cuda else "cpu")
    assert trial.caught(entry, "read") or trial.caught(entry, "run"), trial
    assert trial.run != ("WON",), "faster by cheating"


@pytest.mark.parametrize("entry", _parameters([e for e in ATTACKS if "DEGENERATE" in e.expects]))
def test_a_degenerate_task_is_marked(judge: Judge, entry: Entry) -> None:
    assert verdict(judge, entry, SCREENS).outcome is Outcome.DEGENERATE


@pytest.mark.parametrize("entry", _parameters(CONTROLS))
def test_a_control_passes(judge: Judge, entry: Entry) -> None:
    assert by_reading(entry) == ()
    found = verdict(judge, entry, SCREENS, "cuda" if entry.cuda else "cpu")
    assert found.outcome is Outcome.RIGHT, found.detail


def test_what_is_refused_by_reading_is_not_run(judge: Judge) -> None:
    entry = next(e for e in ATTACKS if e.name == "calls_torch/triton_eval")
    found = verdict(judge, entry, SCREENS)
    assert found.outcome is Outcome.REFUSED
    assert "line " in found.detail
    assert found.build_s == 0
