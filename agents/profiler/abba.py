"""Is B faster than A? Interleaved in the order A B B A, judged on the log ratio.

In a fixed order A-then-B a kernel "won" 58% of runs against itself (clocks ramp up, caches warm, the machine drifts);
in the palindrome a linear drift cancels. Each quad gives one log ratio; their median is admitted with the interval
that order statistics give it, which no outlier can move and which assumes no distribution.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence

from akg_dynamo.core.types import Timing

Measure = Callable[[bool, int, int], float]
"""`measure(kernel, n_calls, data_set)`: seconds that `n_calls` calls took, of the kernel (True) or of eager."""

THRESHOLD = 1.02
_MIN_QUADS = 6  # the fewest whose extremes bound the median with 95%
_MAX_QUADS = 40
_SAMPLE_S = 0.0004
_PROMISING = 1.05
_PATIENCE = 3.0


def interval(logs: Sequence[float]) -> tuple[float, float, float]:
    """The median of a sample and its 95% interval, by order statistics: ranks k … n+1-k, P(Bin(n, ½) < k) ≤ 2.5%."""
    ordered = sorted(logs)
    n = len(ordered)
    k, tail = 0, 0.0
    while k < n // 2:
        tail += math.comb(n, k) / 2.0**n
        if tail > 0.025:
            break
        k += 1
    if k == 0:
        return statistics.median(ordered), -math.inf, math.inf
    return statistics.median(ordered), ordered[k - 1], ordered[n - k]


def _calls_per_sample(measure: Measure) -> tuple[int, float]:
    """Warm both up; how many calls make a sample long enough for the clock, and what a quad will take."""
    count = 1
    while True:
        slowest = max(measure(False, count, 0), measure(True, count, 0))
        if slowest >= _SAMPLE_S / 2 or count >= 1 << 14:
            break
        count *= 4
    count = max(1, min(1 << 15, round(count * _SAMPLE_S / max(slowest, 1e-9))))
    return count, 4 * count * slowest / max(count, 1) if slowest > _SAMPLE_S else 4 * _SAMPLE_S


def sample(measure: Measure, budget_s: float, threshold: float = THRESHOLD) -> Timing:
    """One series of quads: until the answer is clear, or the budget is spent."""
    n_calls, _ = _calls_per_sample(measure)
    logs: list[float] = []
    eager_s: list[float] = []
    kernel_s: list[float] = []
    deadline = time.perf_counter() + budget_s
    while len(logs) < _MAX_QUADS:
        quad = len(logs)
        # Who is first alternates too: what follows a change of program is not the same for both.
        first = quad % 2 == 1
        times = {True: 0.0, False: 0.0}
        for who in (first, not first, not first, first):
            times[who] += measure(who, n_calls, quad)
        eager_s.append(times[False] / (2 * n_calls))
        kernel_s.append(times[True] / (2 * n_calls))
        logs.append(math.log(max(times[False], 1e-12) / max(times[True], 1e-12)))
        if len(logs) >= _MIN_QUADS:
            middle, low, high = interval(logs)
            if low > math.log(threshold) or high < math.log(threshold):
                break
            # On a busy machine a real gain needs more samples to show; what looks like none gets no more time.
            promising = middle > math.log(_PROMISING)
            if time.perf_counter() > deadline + (_PATIENCE * budget_s if promising else 0.0):
                break
    middle, low, high = interval(logs)
    return Timing(
        ratio=math.exp(middle),
        low=math.exp(low),
        high=math.exp(high),
        eager_us=statistics.median(eager_s) * 1e6,
        kernel_us=statistics.median(kernel_s) * 1e6,
    )


def compare(measure: Measure, budget_s: float, threshold: float = THRESHOLD) -> Timing:
    """The verdict on speed. A winner is timed a second time, and it is the second series that is reported: the first
    one selected it, so it flatters. To win is to win both."""
    first = sample(measure, budget_s / 2, threshold)
    if not first.wins(threshold):
        return first
    shifted = 1_000_003  # other data sets than the first series began with

    def fresh(kernel: bool, n_calls: int, index: int) -> float:
        return measure(kernel, n_calls, index + shifted)

    return sample(fresh, budget_s / 2, threshold)
