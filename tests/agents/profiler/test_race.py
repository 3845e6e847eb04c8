"""The fastest of several variants, found among noise and drift."""

from __future__ import annotations

import itertools
import random
from types import SimpleNamespace

import pytest

from akg_dynamo.agents.profiler import race as module
from akg_dynamo.agents.profiler.race import race


class Programs:
    """Variants whose calls take a known time on a machine that drifts and makes noise."""

    def __init__(self, seconds: list[float], *, noise: float = 0.0, drift: float = 0.0) -> None:
        self.seconds = seconds
        self.noise, self.drift = noise, drift
        self.rng = random.Random(7)
        self.calls: list[int] = []

    def __call__(self, who: int, data_set: int) -> float:
        self.calls.append(who)
        slower = 1 + self.drift * len(self.calls)
        return self.seconds[who] * slower * (1 + self.noise * abs(self.rng.gauss(0, 1)))


@pytest.fixture(autouse=True)
def _made_up_costs_take_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at the clock takes a nanosecond, on this machine or on a busy one."""
    nanoseconds = itertools.count()
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: next(nanoseconds) * 1e-9))


def test_costs_are_told() -> None:
    assert race(Programs([2.0, 1.0, 1.05]), 3, 1.0) == [2.0, 1.0, 1.05]


@pytest.mark.parametrize("fastest", [0, 2, 4])
def test_three_percent_show_among_noise(fastest: int) -> None:
    seconds = [1.0] * 5
    seconds[fastest] = 0.97
    found = race(Programs(seconds, noise=0.01), 5, 1.0)
    assert found.index(min(found)) == fastest


def test_a_drift_falls_on_all_alike() -> None:
    found = race(Programs([1.0, 1.0, 1.0], drift=0.01), 3, 1.0)
    assert max(found) / min(found) < 1.005


def test_who_is_behind_drops_out_and_the_others_go_on() -> None:
    programs = Programs([1.0, 3.0, 1.0])
    race(programs, 3, 1.0)
    assert programs.calls.count(1) == module._FEWEST
    assert programs.calls.count(0) == programs.calls.count(2) == module._ROUNDS


def test_it_ends_when_one_is_left_or_its_time_is_spent() -> None:
    alone = Programs([1.0, 3.0])
    race(alone, 2, 1.0)
    assert alone.calls.count(0) == module._FEWEST
    late = Programs([1.0, 1.0])
    race(late, 2, 0.0)
    assert late.calls.count(0) == module._FEWEST, "fewer rounds would say nothing"
