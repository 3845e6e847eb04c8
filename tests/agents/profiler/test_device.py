"""What a call costs on a device that works through a queue, on a device whose times are known."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest

from akg_dynamo.agents.profiler import abba
from akg_dynamo.agents.profiler.device import (
    Call,
    DeviceClock,
    DeviceMeasure,
    DeviceRace,
    Mark,
    _Side,
    compare_on_device,
)

US = 1e-6


class _Mark:
    def __init__(self, queue: Simulated) -> None:
        self.queue = queue
        self.at = queue.busy_until

    def passed(self) -> bool:
        return self.queue.host > self.at

    def seconds_since(self, earlier: Mark) -> float:
        assert isinstance(earlier, _Mark)
        assert self.passed()
        return self.at - earlier.at


class Simulated:
    """A host that queues and a device that follows, each with its own time."""

    def __init__(self, noise: float = 0.0) -> None:
        self.host = 0.0
        self.busy_until = 0.0
        self.flushes = 0
        self.rng = random.Random(0)
        self.noise = noise

    def launch(self, host_s: float, device_s: float) -> None:
        self.host += host_s * (1 + self.noise * self.rng.random())
        self.busy_until = max(self.busy_until, self.host) + device_s * (1 + self.noise * self.rng.random())

    def hold(self, seconds: float) -> None:
        self.launch(5 * US, seconds)

    def flush_cache(self) -> None:
        self.flushes += 1
        self.launch(4 * US, 36 * US)

    def mark(self) -> Mark:
        self.launch(2 * US, 0.0)
        return _Mark(self)

    def synchronize(self) -> None:
        self.host = max(self.host, self.busy_until) + 10 * US

    def now(self) -> float:
        return self.host


def _program(queue: Simulated, kernels: int, host_us: float, device_us: float) -> Call:
    """So many kernels, with the host and device time of each."""

    def call(index: int) -> None:
        for _ in range(kernels):
            queue.launch(host_us * US, device_us * US)

    return call


@pytest.fixture(autouse=True)
def _made_up_times_take_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """How many samples there are must not hang on how fast this machine makes them up."""
    monkeypatch.setattr(abba, "time", SimpleNamespace(perf_counter=lambda: 0.0))


@pytest.mark.parametrize(("kernels", "host_us", "device_us"), [(1, 8, 3), (20, 6, 2), (1, 8, 900), (40, 30, 1)])
def test_device_time_is_free_of_the_host_and_host_time_of_the_device(
    kernels: int, host_us: float, device_us: float
) -> None:
    queue = Simulated()
    measure = DeviceMeasure(queue, _program(queue, kernels, host_us, device_us), _program(queue, 1, 1, 1), 3)
    side = measure.sides[False]
    assert side.device_s == pytest.approx(kernels * device_us * US, rel=1e-6)
    assert side.host_s == pytest.approx(kernels * host_us * US, rel=1e-6)
    assert not side.synchronizes


def test_each_call_finds_the_cache_flushed() -> None:
    queue = Simulated()
    side = _Side(_program(queue, 1, 5, 5))
    DeviceClock(queue).device_s(side, 6, 0)
    assert queue.flushes >= 6


def test_a_program_that_waits_for_the_device_is_charged_for_it_and_held_only_so_often() -> None:
    queue = Simulated()

    def waits(index: int) -> None:
        queue.launch(5 * US, 5 * US)
        queue.synchronize()
        queue.launch(5 * US, 5 * US)

    side = _Side(waits)
    clock = DeviceClock(queue)
    assert clock.device_s(side, 2, 0) > 10 * US
    assert side.synchronizes
    before = queue.now()
    clock.device_s(side, 2, 0)
    assert queue.now() - before < 500 * US


def test_only_what_counts_is_measured() -> None:
    queue = Simulated()
    large = DeviceMeasure(queue, _program(queue, 2, 8, 900), _program(queue, 1, 12, 900), 1)
    assert (large.times_host, large.times_device) == (False, True)
    tiny = DeviceMeasure(queue, _program(queue, 3, 8, 2), _program(queue, 1, 10, 2), 1)
    assert (tiny.times_host, tiny.times_device) == (True, False)
    between = DeviceMeasure(queue, _program(queue, 1, 8, 10), _program(queue, 1, 10, 7), 1)
    assert (between.times_host, between.times_device) == (True, True)


@pytest.mark.parametrize(
    ("eager", "kernel", "ratio"),
    [
        ((3, 6, 2), (1, 9, 4), 2.0),  # tiny: three launches against one dearer one
        ((2, 6, 500), (1, 30, 500), 2.0),  # large: the host does not count
        ((1, 8, 10), (1, 20, 5), 0.5),  # a gain on the device that the host eats up
        ((1, 8, 3), (1, 8, 3), 1.0),
    ],
)
def test_a_call_costs_the_larger_of_device_and_host_time(
    eager: tuple[int, float, float], kernel: tuple[int, float, float], ratio: float
) -> None:
    queue = Simulated(noise=0.02)
    timing = compare_on_device(DeviceMeasure(queue, _program(queue, *eager), _program(queue, *kernel), 2), 0.5)
    assert timing.ratio == pytest.approx(ratio, rel=0.05)
    assert timing.eager_device_us == pytest.approx(eager[0] * eager[2], rel=0.1)
    assert timing.kernel_device_us == pytest.approx(kernel[0] * kernel[2], rel=0.1)
    assert timing.wins() == (ratio > 1.5)


def _variant(queue: Simulated, cold_us: float, warm_us: float, host_us: float = 8.0) -> Call:
    """A kernel that finds its data in the cache if nothing was flushed since it was called last."""
    seen = [-1]

    def call(index: int) -> None:
        queue.launch(host_us * US, (warm_us if seen[0] == queue.flushes else cold_us) * US)
        seen[0] = queue.flushes

    return call


def test_variants_are_compared_with_their_data_in_the_cache_and_without() -> None:
    queue = Simulated()
    race = DeviceRace(queue, [_variant(queue, 6, 3), _variant(queue, 5, 4.5), _variant(queue, 5.5, 3)])
    assert [race.cost_s(who, 0) for who in range(3)] == pytest.approx([4.5 * US, 4.75 * US, 4.25 * US])


def test_what_is_too_large_for_the_cache_is_called_half_as_often() -> None:
    queue = Simulated()
    race = DeviceRace(queue, [_variant(queue, 900, 890), _variant(queue, 800, 795)])
    before = queue.flushes
    assert [race.cost_s(who, 0) for who in range(2)] == pytest.approx([900 * US, 800 * US])
    assert queue.flushes == before + 2


def test_the_noise_of_the_host_does_not_choose_a_variant() -> None:
    queue = Simulated()
    slow_host, fast_host = _variant(queue, 5, 3, host_us=9), _variant(queue, 5.2, 3.2, host_us=7)
    race = DeviceRace(queue, [slow_host, fast_host])
    assert race.cost_s(0, 0) < race.cost_s(1, 0)
