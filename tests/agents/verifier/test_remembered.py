"""The oracle is computed once per task, size and kind of inputs, however many candidates are judged."""

from __future__ import annotations

import pytest
import torch

from akg_dynamo.agents.verifier import plan
from akg_dynamo.agents.verifier.case import Case
from akg_dynamo.agents.verifier.inputs import Drawer
from akg_dynamo.agents.verifier.job import Job
from akg_dynamo.agents.verifier.numerics import Expected
from akg_dynamo.agents.verifier.remembered import Remembered
from akg_dynamo.agents.verifier.truth import Truth
from akg_dynamo.agents.verifier.values import Values
from akg_dynamo.agents.verifier.workers import Failed

from .kernels import add_relu, dynamic_softmax, job
from .simulated import DEVICE, Worker, values_of

RIGHT = "return (torch.relu(args[0] + args[1]),)"


def _check(one: Job, remembered: Remembered, monkeypatch: pytest.MonkeyPatch) -> str:
    worker = Worker()
    values = values_of(one, worker, monkeypatch, large=False)
    values.remembered = remembered
    try:
        with torch.no_grad():
            values.check()
    except Failed as failed:
        return failed.detail
    return ""


def test_a_second_candidate_costs_no_oracle(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    expected = Truth.expected

    def counted(*args: object, **kwargs: object) -> list[Expected]:
        nonlocal calls
        calls += 1
        return expected(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Truth, "expected", counted)
    remembered = Remembered()
    assert _check(job(add_relu(), RIGHT, seed=5), remembered, monkeypatch) == ""
    first = calls
    assert first >= len(plan.groups(add_relu(), 5))
    slower = "x = args[0] + args[1]; return (x.clamp(min=0),)"
    assert _check(job(add_relu(), slower, seed=5), remembered, monkeypatch) == ""
    assert calls == first
    wrong = "x = torch.relu(args[0] + args[1]); x[7] += 1; return (x,)"
    assert "[7]" in _check(job(add_relu(), wrong, seed=5), remembered, monkeypatch)
    assert calls == first
    for other in (
        job(add_relu(), RIGHT, seed=6),
        job(add_relu(), RIGHT, seed=5, numerics="eager"),
        job(add_relu(999), RIGHT),
    ):
        before = calls
        assert _check(other, remembered, monkeypatch) == ""
        assert calls > before


def test_there_is_an_end_to_what_is_kept() -> None:
    remembered = Remembered(limit_bytes=100_000)
    outputs = [Expected(torch.zeros(500), torch.zeros(500, dtype=torch.float64))]
    for key in range(50):
        remembered.put(key, outputs, "", 0)
        remembered.get(0)
        assert remembered.n_bytes <= 100_000
    assert remembered.get(0) is not None
    assert remembered.get(49) is not None
    assert remembered.get(1) is None
    remembered.put("large", [Expected(torch.zeros(5000), torch.zeros(5000, dtype=torch.float64))], "", 0)
    assert remembered.get("large") is None


def test_every_size_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker()
    one = job(dynamic_softmax(), "return (torch.softmax(args[0], -1),)")
    values = Values(Drawer(), worker, one, plan.Means(1 << 24), [])  # type: ignore[arg-type]
    values.device = DEVICE
    sizes = [{"s0": 2, "s1": 3}, {"s0": 3, "s1": 2}]
    keys = {
        values._key(values.lay_out(plan.Group(s, kind, 1), number, neighbour=neighbour))
        for s in sizes
        for kind in ("normal", "wide")
        for number in (0, 1)
        for neighbour in (0, 1)
    }
    assert len(keys) == 16
    assert None not in keys
    case = values.lay_out(plan.Group(sizes[0], "normal", 1), 0)
    of_a_ring = Case(case.group, 0, case.arena, case.private, case.offsets, case.places, {})
    assert values._key(of_a_ring) is None  # whose contents change
