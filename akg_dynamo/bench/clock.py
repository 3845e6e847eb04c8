"""How calls are timed: all contenders in one process, interleaved forwards then backwards (ABBA), ratios per round.

A fixed order would favour one of them, and times of separate runs do not compare. Each round visits every contender
twice, in mirrored order, so that a drift of the machine's speed cancels to first order; ratios are taken within a
round, and their median is given with the 95% interval of its order statistics.

On CUDA two clocks are kept apart. *Device* time is measured by events while the queue is held full (a spin kernel gives
the host a head start), so that launch gaps do not count; the L2 cache is overwritten before each visit. *Call* time is
what a loop of calls takes by the wall clock: the larger of host and device time.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from akg_dynamo.agents.profiler.abba import interval

Call = Callable[[], object]


@dataclass(frozen=True)
class Ratio:
    """`mid` with its 95% interval; above 1 is faster than the baseline."""

    mid: float
    low: float
    high: float

    @property
    def tie(self) -> bool:
        """Whether the interval includes 1."""
        return self.low <= 1.0 <= self.high

    def at_least(self, bound: float) -> bool:
        """Not below `bound`, or a tie."""
        return self.mid >= bound or self.tie

    def __str__(self) -> str:
        return f"{self.mid:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True)
class Rounds:
    """Microseconds per call, one number per contender and round."""

    us: Mapping[str, tuple[float, ...]]

    def median_us(self, name: str) -> float:
        """The contender's median time per call."""
        return statistics.median(self.us[name])

    def ratio(self, baseline: str, name: str) -> Ratio:
        """The baseline's time over the contender's, round by round."""
        pairs = zip(self.us[baseline], self.us[name], strict=True)
        mid, low, high = interval([math.log(a / b) for a, b in pairs])
        return Ratio(math.exp(mid), math.exp(low), math.exp(high))


def geometric_mean(values: list[float]) -> float:
    """Of positive numbers; 1 for none."""
    return math.exp(statistics.fmean(math.log(v) for v in values)) if values else 1.0


def wall(call: Call, calls: int) -> float:
    """Seconds per call by the wall clock, the device's work included."""
    start = time.perf_counter()
    for _ in range(calls):
        call()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / calls


def interleave(
    contenders: Mapping[str, Call],
    *,
    seconds: float = 2.0,
    least: int = 9,
    most: int = 101,
    timed: Callable[[Call, int], float] = wall,
    visit_s: float = 5e-4,
    visiting: Callable[[str], None] = lambda name: None,
) -> Rounds:
    """Time the contenders for about `seconds` in all, in `least` to `most` rounds.

    visiting: told whose turn it is, before that one's clock starts.

    A visit repeats the call for at least `visit_s`, so that the clock's own cost does not count. All make the same
    number of calls in a visit, so that what its first call pays (a cold cache, a sleeping thread) is shared out alike.
    """

    def visit(name: str, calls: int) -> float:
        visiting(name)
        return timed(contenders[name], calls)

    for name, call in contenders.items():
        visiting(name)
        call()
    once = max(visit(name, 2) for name in contenders)
    calls = max(1, math.ceil(visit_s / once))
    start = time.perf_counter()
    for name in contenders:
        visit(name, calls)
    a_round = 2 * (time.perf_counter() - start)
    rounds = min(max(int(seconds / a_round), least), most)
    names = list(contenders)
    us: dict[str, list[float]] = {name: [] for name in names}
    for i in range(rounds):
        # Who begins changes with the round: the ends of a palindrome are not like its middle.
        order = names[i % len(names) :] + names[: i % len(names)]
        spent = dict.fromkeys(names, 0.0)
        for name in (*order, *reversed(order)):
            spent[name] += visit(name, calls)
        for name in names:
            us[name].append(spent[name] / 2 * 1e6)
    return Rounds({name: tuple(values) for name, values in us.items()})


class DeviceClock:
    """Seconds of device time per call on the current CUDA device."""

    def __init__(self) -> None:
        cache_bytes = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
        self._flushed = torch.empty(2 * cache_bytes, dtype=torch.int8, device="cuda")
        self._cycles_per_s = self._measure_spin()

    @staticmethod
    def _measure_spin() -> float:
        cycles = 10_000_000
        start, end = _events()
        for _ in range(2):
            start.record()
            torch.cuda._sleep(cycles)  # type: ignore[no-untyped-call]
            end.record()
            end.synchronize()
        return cycles / (float(start.elapsed_time(end)) * 1e-3)

    def __call__(self, call: Call, calls: int) -> float:
        """The mean over `calls` calls that were queued before the device began with the first.

        Queued calls need their outputs' memory to be reused at once, as the caching allocator does.
        """
        host = time.perf_counter()
        call()
        host = time.perf_counter() - host  # how far ahead the host must be, per call
        start, end = _events()
        torch.cuda.synchronize()
        self._flushed.zero_()
        ahead_s = min(0.05, 1.5 * host * calls + 2e-4)
        torch.cuda._sleep(int(ahead_s * self._cycles_per_s))  # type: ignore[no-untyped-call]
        start.record()
        for _ in range(calls):
            call()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) * 1e-3 / calls


def _events() -> tuple[torch.cuda.Event, torch.cuda.Event]:
    make = torch.cuda.Event
    return make(enable_timing=True), make(enable_timing=True)  # type: ignore[no-untyped-call]


def copy_bandwidth(device: torch.device, megabytes: int = 1024) -> float:
    """Bytes per second, read and written together, of torch's own copy of a large tensor: the reachable roof."""
    source = torch.empty(megabytes * 2**20, dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    timed = DeviceClock() if device.type == "cuda" else wall
    times = [timed(lambda: target.copy_(source), 1) for _ in range(7)]
    return 2 * source.numel() / statistics.median(times[2:])
