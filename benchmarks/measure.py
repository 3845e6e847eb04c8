"""How every table here is timed: all contenders in one process, interleaved, forwards then backwards (ABBA).

A fixed order would favour one of them, and times of separate runs do not compare on a shared machine. Each round
visits every contender twice, in mirrored order, so that a drift of the machine's speed cancels to first order; ratios
are taken within a round, and their median is given with the 95% interval of its order statistics.
"""

from __future__ import annotations

import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

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
        return _median_interval([math.log(a / b) for a, b in pairs])


def _median_interval(logs: list[float]) -> Ratio:
    mid, low, high = interval(logs)
    return Ratio(math.exp(mid), math.exp(low), math.exp(high))


def _timed(call: Call, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return time.perf_counter() - start


def interleave(contenders: Mapping[str, Call], *, seconds: float = 2.0, least: int = 9, most: int = 101) -> Rounds:
    """Time the contenders for about `seconds` in all, in `least` to `most` rounds.

    A visit repeats the call for at least 0.5 ms, so that the clock's own cost does not count. All make the same number
    of calls in a visit, so that what its first call pays (a cold cache, a sleeping thread) is shared out alike.
    """
    for call in contenders.values():
        call()
    once = max(_timed(call, 2) / 2 for call in contenders.values())
    calls = max(1, math.ceil(5e-4 / once))
    a_round = 2 * calls * once * len(contenders)
    rounds = min(max(int(seconds / a_round), least), most)
    names = list(contenders)
    us: dict[str, list[float]] = {name: [] for name in names}
    for i in range(rounds):
        # Who begins changes with the round: the ends of a palindrome are not like its middle.
        order = names[i % len(names) :] + names[: i % len(names)]
        spent = dict.fromkeys(names, 0.0)
        for name in (*order, *reversed(order)):
            spent[name] += _timed(contenders[name], calls)
        for name in names:
            us[name].append(spent[name] / (2 * calls) * 1e6)
    return Rounds({name: tuple(values) for name, values in us.items()})


def geometric_mean(values: list[float]) -> float:
    """Of positive numbers; 1 for none."""
    return math.exp(statistics.fmean(math.log(v) for v in values)) if values else 1.0


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def environment() -> dict[str, object]:
    """What a result must be read with."""
    from importlib.metadata import version

    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "load_at_start": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "akg": version("akg-dynamo"),
    }
