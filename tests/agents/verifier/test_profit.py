"""The profit rule: real gains are admitted, luck is not."""

from __future__ import annotations

import math
import random

import pytest

from akg_dynamo.agents.profiler import abba, compare, interval
from akg_dynamo.agents.verifier import Judge
from akg_dynamo.core.types import Outcome

from .kernels import add_relu, contiguous, job, single


class _Clock:
    """Time that passes only while something is measured."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def _no_time_passes_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where times are made up, how many of them there are must not hang on how fast this machine makes them up."""
    monkeypatch.setattr(abba, "time", _Clock())


GELU = single("aten.gelu.default", contiguous("float32", 64, 256), contiguous("float32", 64, 256))


def test_interval_covers_the_median_as_often_as_it_says() -> None:
    rng = random.Random(0)
    for n in (6, 9, 20, 40):
        covered = 0
        for _ in range(2000):
            _, low, high = interval([rng.gauss(0, 1) for _ in range(n)])
            covered += low <= 0 <= high
        assert covered / 2000 >= 0.94


def test_too_few_samples_say_nothing() -> None:
    _, low, high = interval([1.0] * 5)
    assert (low, high) == (-math.inf, math.inf)


def _noisy(rng: random.Random, gain: float, drift: float, call_s: float = 1e-5):  # type: ignore[no-untyped-def]
    """A machine whose clock drifts, with heavy-tailed noise; eager takes `gain` times as long as the kernel."""
    now = 0.0

    def measure(kernel: bool, n_calls: int, index: int) -> float:
        nonlocal now
        now += 1
        noise = math.exp(rng.gauss(0, 0.03)) + (rng.expovariate(2) if rng.random() < 0.05 else 0.0)
        return call_s * n_calls * (1 if kernel else gain) * noise * (1 + drift * now)

    return measure


SHORT_AND_LONG = pytest.mark.parametrize("call_s", [1e-5, 0.1], ids=["short calls", "long calls"])


@SHORT_AND_LONG
def test_a_kernel_against_itself_does_not_win(call_s: float) -> None:
    rng = random.Random(1)
    wins = sum(compare(_noisy(rng, 1.0, 0.001, call_s), 1.0).wins() for _ in range(500))
    assert wins <= 5


@SHORT_AND_LONG
def test_a_gain_of_a_fifth_is_seen(call_s: float) -> None:
    rng = random.Random(2)
    wins = sum(compare(_noisy(rng, 1.2, 0.001, call_s), 1.0).wins() for _ in range(100))
    assert wins >= 95


@pytest.mark.parametrize(("gain", "most"), [(0.9, 28), (1.2, 52), (2.0, 40)])
def test_long_calls_are_few(gain: float, most: int) -> None:
    rng = random.Random(5)
    calls = 0

    def measure(kernel: bool, n_calls: int, index: int) -> float:
        nonlocal calls
        calls += n_calls
        return 0.1 * n_calls * (1 if kernel else gain) * math.exp(rng.gauss(0, 0.01))

    assert compare(measure, 0.06).wins() is (gain > 1)
    assert calls <= most


def _wins_beside_a_hog(gain: float, runs: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """How often a kernel of two threads wins while, half the time, its second thread is not scheduled."""
    rng, clock = random.Random(3), _Clock()
    monkeypatch.setattr(abba, "time", clock)
    waiting = False

    def measure(kernel: bool, n_calls: int, index: int) -> float:
        nonlocal waiting
        if rng.random() < 0.4:
            waiting = rng.random() < 0.5
        burst = rng.uniform(5, 100) if kernel and waiting else 1.0
        seconds = 1e-5 * n_calls * (1.0 if kernel else gain) * math.exp(rng.gauss(0, 0.03)) * burst
        clock.now += seconds
        return seconds

    return sum(compare(measure, 0.06).wins() for _ in range(runs))


def test_bursts_on_one_side_do_not_hide_a_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _wins_beside_a_hog(1.24, 100, monkeypatch) >= 85


def test_bursts_on_one_side_do_not_make_a_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _wins_beside_a_hog(1.0, 500, monkeypatch) <= 5


def test_noise_of_differences_does_not_make_a_gain() -> None:
    """A difference of two spans may come out as nothing, on either side."""
    rng = random.Random(4)

    def measure(kernel: bool, n_calls: int, index: int) -> float:
        return max(1e-5 * n_calls * rng.gauss(1.0, 0.5), 1e-9 * n_calls)

    assert sum(compare(measure, 0.01, differences=True).wins() for _ in range(500)) <= 5


def test_real_gain_and_real_loss(judge: Judge) -> None:
    options = {"want_values": False, "want_timing": True, "threads": 1}
    slow = "return (torch.nn.functional.gelu(args[0].double()).float(),)"
    for _ in range(5):  # on a busy machine a gain may not show; a loss is never taken for one
        fast, lost = judge.judge([job(GELU, "return (torch.neg(args[0]),)", **options), job(GELU, slow, **options)])
        assert fast.outcome is Outcome.RIGHT
        assert fast.timing is not None
        assert lost.timing is not None
        assert not lost.timing.wins()
        if fast.timing.wins():
            break
    assert fast.timing.wins()


def test_timing_stays_within_its_budget(judge: Judge) -> None:
    asked = job(add_relu(), "return (torch.relu(args[0]+args[1]),)", want_values=False, want_timing=True)
    took = [dict(verdict.phases)["timing"] for verdict in judge.judge([asked] * 3)]
    assert min(took) < 1.0, "of 0.06 s; whatever else runs only makes it longer"


def test_an_untrusted_kernel_is_timed_by_the_judge_beside_eager_in_another_process(judge: Judge) -> None:
    """It patches every clock of its own process; the ratio stays that of a kernel that sleeps."""
    top = "import time\nreal = time.sleep\ntime.perf_counter = lambda: 0.0"
    body = "real(0.002); return (torch.nn.functional.gelu(args[0]),)"
    (verdict,) = judge.judge([job(GELU, body, top=top, trusted=False, threads=1, want_values=False, want_timing=True)])
    assert verdict.timing is not None, verdict
    assert verdict.timing.ratio < 0.5


@pytest.mark.parametrize(("trusted", "runs"), [(True, 40), (False, 6)])
def test_eager_does_not_win_against_itself(judge: Judge, trusted: bool, runs: int) -> None:
    """Two wins in forty may be luck, which says nothing of five times as many: of those, one in fifty may win."""
    body = "return (torch.nn.functional.gelu(args[0]),)"
    options = {"want_values": False, "want_timing": True, "timing_budget_s": 0.01, "trusted": trusted, "threads": 1}

    def wins(seeds: range) -> int:
        timings = [v.timing for v in judge.judge([job(GELU, body, seed=s, **options) for s in seeds])]
        assert all(timings)
        return sum(t is not None and t.wins() for t in timings)

    if wins(range(runs)) > 1:
        assert wins(range(runs, 6 * runs)) <= max(1, runs // 10)


@pytest.mark.conformance
def test_real_kernels_against_themselves_win_at_most_once_in_a_hundred(judge: Judge) -> None:
    body = "return (torch.nn.functional.gelu(args[0]),)"
    jobs = [job(GELU, body, seed=s, want_values=False, want_timing=True) for s in range(500)]
    wins = sum(v.timing is not None and v.timing.wins() for v in judge.judge(jobs))
    assert wins <= 5
