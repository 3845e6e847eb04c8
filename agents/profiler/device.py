"""What a call costs on a device that works through a queue: its own time, and the host's.

A call costs the larger of the two, as a loop of such calls would show. Large kernels keep the device busy, and the host
runs ahead; of tiny ones the host is what is waited for, and the operators that a kernel replaces are called one by one.

*Device* time lies between two marks in the queue, which is held until the last call is in it: how fast the host queues
does not count. The cache is overwritten before each call. *Host* time is until the call returns, with an idle queue.

Variants of one kernel take the same time of the host, whose noise would choose among them: they are compared by device
time alone. And as nobody knows whether a program calls a kernel right after what wrote its inputs, half of it is taken
without a flush, where that makes a difference.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from akg_dynamo.agents.profiler.abba import THRESHOLD, compare
from akg_dynamo.core.types import Timing

Call = Callable[[int], object]
"""One call, on the data set of that number."""

_SAMPLE_S = 0.0003
_MOST_DEVICE_CALLS = 4
_MOST_WARM_CALLS = 8
_LITTLE_COLDER = 0.95  # a call without a flush over one after it, where what it reads is too much for the cache
_MOST_HOST_CALLS = 32
_WELL_BELOW = 0.65
_SHORTEST_HOLD_S = 0.0001
_LONGEST_HOLD_S = 0.008
_HOLD_PER_CALL_S = 0.00002  # what the marks and the flush take to queue


class Mark(Protocol):
    """A place in the queue."""

    def passed(self) -> bool:
        """Whether the device is past it."""

    def seconds_since(self, earlier: Mark) -> float:
        """The device's time from there to here, once both are passed."""


class Queue(Protocol):
    """A device that works through what the host queues, in order."""

    def hold(self, seconds: float) -> None:
        """Queue that much idle work."""

    def flush_cache(self) -> None:
        """Queue work that leaves nothing of the tensors in the device's cache."""

    def mark(self) -> Mark:
        """Queue a mark."""

    def synchronize(self) -> None:
        """Wait until the device has nothing left to do."""

    def now(self) -> float:
        """The host's clock, in seconds."""


class _CudaMark:
    def __init__(self) -> None:
        self.event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch's own
        self.event.record()

    def passed(self) -> bool:
        return bool(self.event.query())  # type: ignore[no-untyped-call]

    def seconds_since(self, earlier: Mark) -> float:
        assert isinstance(earlier, _CudaMark)
        return float(earlier.event.elapsed_time(self.event)) * 1e-3


class CudaQueue:
    """The current stream of the current CUDA device."""

    def __init__(self) -> None:
        cache_bytes = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
        self._flushed = torch.empty(2 * max(cache_bytes, 1 << 20), dtype=torch.uint8, device="cuda")
        self._cycles_per_s = 2e9
        for _ in range(2):  # the first time, the clock is still rising
            start, cycles = self.mark(), int(self._cycles_per_s * 0.002)
            torch.cuda._sleep(cycles)  # type: ignore[no-untyped-call]
            end = self.mark()
            self.synchronize()
            self._cycles_per_s = cycles / end.seconds_since(start)

    def hold(self, seconds: float) -> None:
        """Queue a kernel that spins."""
        torch.cuda._sleep(int(seconds * self._cycles_per_s))  # type: ignore[no-untyped-call]

    def flush_cache(self) -> None:
        """Overwrite twice as much as the L2 cache holds."""
        self._flushed.zero_()

    def mark(self) -> Mark:
        """Record an event."""
        return _CudaMark()

    def synchronize(self) -> None:
        """Wait for every stream."""
        torch.cuda.synchronize()

    def now(self) -> float:
        """The performance counter."""
        return time.perf_counter()


@dataclass
class _Side:
    """Eager or the kernel: what is called, and what is known of its times."""

    call: Call
    hold_s: float = _SHORTEST_HOLD_S
    synchronizes: bool = False  # it waits for the device itself: the queue is never full
    host_s: float = 0.0
    device_s: float = 0.0


class DeviceClock:
    """Measures the calls of one queue."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue

    def host_s(self, side: _Side, n_calls: int, index: int) -> float:
        """Seconds per call until it returns."""
        self.queue.synchronize()
        start = self.queue.now()
        for i in range(n_calls):
            side.call(index + i)
        seconds = self.queue.now() - start
        self.queue.synchronize()
        return seconds / n_calls

    def device_s(self, side: _Side, n_calls: int, index: int) -> float:
        """Seconds per call of the device's time, each call after a flush of the cache."""
        queue = self.queue

        def calls() -> list[tuple[Mark, Mark]]:
            spans = []
            for i in range(n_calls):
                queue.flush_cache()
                start = queue.mark()
                side.call(index + i)
                spans.append((start, queue.mark()))
            return spans

        return self._held(side, calls) / n_calls

    def warm_s(self, side: _Side, n_calls: int, index: int) -> float:
        """Seconds per call of the device's time, one call after another on the same data."""
        queue = self.queue

        def calls() -> list[tuple[Mark, Mark]]:
            side.call(index)
            start = queue.mark()
            for _ in range(n_calls):
                side.call(index)
            return [(start, queue.mark())]

        return self._held(side, calls) / n_calls

    def _held(self, side: _Side, calls: Callable[[], list[tuple[Mark, Mark]]]) -> float:
        """Seconds of the device between the marks that are queued with those calls, before it begins with them."""
        queue = self.queue
        while True:
            queue.synchronize()
            if not side.synchronizes:
                queue.hold(side.hold_s)
            spans = calls()
            starved = spans[0][0].passed()
            queue.synchronize()
            if not starved or side.synchronizes:
                return sum(end.seconds_since(start) for start, end in spans)
            # The device got there before all was queued: what it waited for the host would count.
            side.synchronizes = side.hold_s >= _LONGEST_HOLD_S
            side.hold_s = min(4 * side.hold_s, _LONGEST_HOLD_S)


class DeviceCosts:
    """Several programs on one device that compute the same: what a call of each costs.

    Where one of device and host time is known to be well below the other on all of them, only the other is taken.
    """

    def __init__(self, queue: Queue, calls: Sequence[Call], n_sets: int) -> None:
        self.clock = DeviceClock(queue)
        self.sides = [_Side(call) for call in calls]
        self.device_us: list[list[float]] = [[] for _ in calls]
        for side in self.sides:
            for i in range(max(2, n_sets)):  # what is loaded and allocated once
                side.call(i)
            side.host_s = min(self.clock.host_s(side, 2, i) for i in range(3))
            side.hold_s = max(_SHORTEST_HOLD_S, min(_LONGEST_HOLD_S, 2 * 1.5 * (side.host_s + _HOLD_PER_CALL_S)))
            side.device_s = min(self.clock.device_s(side, 2, i) for i in range(2))
        self.times_host = any(side.host_s > _WELL_BELOW * side.device_s for side in self.sides)
        self.times_device = any(side.device_s > _WELL_BELOW * side.host_s for side in self.sides)

    def cost_s(self, who: int, index: int) -> float:
        """Seconds of one call of that program."""
        side, cost = self.sides[who], 0.0
        if self.times_device:
            cost = self.clock.device_s(side, _held_long_enough(side, _MOST_DEVICE_CALLS), index)
            self.device_us[who].append(cost * 1e6)
        if self.times_host:
            count = _count(side.host_s, 2, _MOST_HOST_CALLS)
            cost = max(cost, self.clock.host_s(side, count, index))
        return cost


class DeviceMeasure(DeviceCosts):
    """Eager and a kernel, for `abba.compare`: each sample is what a call costs."""

    def __init__(self, queue: Queue, eager: Call, kernel: Call, n_sets: int) -> None:
        super().__init__(queue, (eager, kernel), n_sets)

    def __call__(self, kernel: bool, n_calls: int, index: int) -> float:
        """Seconds of one call, whatever `n_calls` says: how many make a sample depends on what is measured."""
        return self.cost_s(kernel, index) * n_calls


class DeviceRace:
    """Variants of one kernel: what a call of each takes of the device."""

    def __init__(self, queue: Queue, calls: Sequence[Call]) -> None:
        self.clock = DeviceClock(queue)
        self.sides = [_Side(call) for call in calls]
        warm = [self._first_times(side) for side in self.sides]
        self.warms = any(s < _LITTLE_COLDER * side.device_s for s, side in zip(warm, self.sides, strict=True))

    def _first_times(self, side: _Side) -> float:
        """Seconds of a call without a flush; what else is known of it goes into `side`."""
        for i in range(2):  # what is loaded and allocated once
            side.call(i)
        side.host_s = min(self.clock.host_s(side, 2, i) for i in range(2))
        side.hold_s = max(_SHORTEST_HOLD_S, min(_LONGEST_HOLD_S, 2 * 1.5 * (side.host_s + _HOLD_PER_CALL_S)))
        side.device_s = self.clock.device_s(side, 2, 0)
        return self.clock.warm_s(side, 2, 0)

    def cost_s(self, who: int, index: int) -> float:
        """Seconds of one call of that variant: without its data in the cache or, on average, with it as often."""
        side = self.sides[who]
        cold_s = self.clock.device_s(side, _held_long_enough(side, _MOST_DEVICE_CALLS), index)
        if not self.warms:
            return cold_s
        return (cold_s + self.clock.warm_s(side, _held_long_enough(side, _MOST_WARM_CALLS), index)) / 2


def _held_long_enough(side: _Side, most: int) -> int:
    """How many calls of the device make a sample; what holds the queue meanwhile is set for them."""
    count = _count(side.device_s, 1, most)
    side.hold_s = max(side.hold_s, min(_LONGEST_HOLD_S, 1.5 * count * (side.host_s + _HOLD_PER_CALL_S)))
    return count


def _count(seconds: float, least: int, most: int) -> int:
    return max(least, min(most, round(_SAMPLE_S / max(seconds, 1e-9))))


def compare_on_device(measure: DeviceMeasure, budget_s: float, threshold: float = THRESHOLD) -> Timing:
    """The verdict on speed (see `abba.compare`), by what a call costs on that device."""
    timing = compare(measure, budget_s, threshold, n_calls=1)

    def device_us(kernel: bool) -> float:
        taken: Sequence[float] = measure.device_us[kernel]
        return statistics.median(taken) if taken else measure.sides[kernel].device_s * 1e6

    return Timing(
        timing.ratio,
        timing.low,
        timing.high,
        timing.eager_us,
        timing.kernel_us,
        device_us(False),
        device_us(True),
    )
