"""Is B faster than A? Interleaved in the order A B B A, judged on the log ratio.

In a fixed order A-then-B a kernel "won" 58% of runs against itself (clocks ramp up, caches warm, the machine drifts);
in the palindrome a linear drift cancels. Each quad gives one log ratio; their median is admitted with the interval
that order statistics give it, which no outlier can move and which assumes no distribution.

On a busy machine one of the two may suffer more: a kernel of two threads waits at every barrier while its second thread
is not scheduled, and eager on one thread does not. What is wanted is the ratio on the quiet machine, so bursts are
discarded, on both sides alike: each side's time in a quad is the least of its samples; when one side's samples within
a quad differ several times, the series starts over with more samples in a quad, and what looks lost gets more time.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from akg_dynamo.core.types import Timing

Measure = Callable[[bool, int, int], float]
"""`measure(kernel, n_calls, data_set)`: seconds that `n_calls` calls took, of the kernel (True) or of eager."""

THRESHOLD = 1.02
_MIN_QUADS = 6  # the fewest whose extremes bound the median with 95%
_MAX_QUADS = 40
_SAMPLE_S = 0.0003
_BURST = 3.0  # samples of one side in one quad that differ so many times: the machine is busy
_MOST_PALINDROMES = 8  # in one quad, on a busy machine
_PROMISING = 1.05
_WIDE = math.log(3.0)  # an interval of differences that is wider says that the machine was busy, and nothing else
_PATIENCE = 3.0
_LONG_S = 0.004
_LOPSIDED = 1.5  # the least of two samples is less than one by a few per cent: far less than this
_PATIENT_QUADS = 15  # of long calls: their intervals leave out the extremes
_LONG_PATIENCE_S = 3.0


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


@dataclass(frozen=True)
class _Pace:
    """How many calls make a sample. `long`: a call lasts long enough to be counted. `once`: the side (the kernel's, or
    eager's) that takes so much longer than the other that one sample of it will do in a quad.
    """

    n_calls: int
    long: bool = False
    once: bool | None = None

    def order(self, first: bool) -> tuple[bool, ...]:
        """Who is measured, in a quad."""
        if self.once is None:
            return first, not first, not first, first
        other = not self.once
        return (self.once, other, other) if first == self.once else (other, other, self.once)


def _pace(measure: Measure) -> _Pace:
    """Warm both up; how many calls make a sample long enough for the clock."""
    count = 1
    while True:
        # Twice, and the faster one: a burst must not make samples of a single call.
        took = {who: min(measure(who, count, i) for i in range(2)) for who in (False, True)}
        slower = took[True] > took[False]
        slowest = took[slower]
        if slowest >= _SAMPLE_S / 2 or count >= 1 << 14:
            break
        count *= 4
    n_calls = max(1, min(1 << 15, round(count * _SAMPLE_S / max(slowest, 1e-9))))
    long = slowest / count > _LONG_S
    return _Pace(n_calls, long, slower if long and slowest > _LOPSIDED * took[not slower] else None)


def sample(
    measure: Measure,
    budget_s: float,
    threshold: float = THRESHOLD,
    *,
    differences: bool = False,
    n_calls: int | None = None,
) -> Timing:
    """One series of quads: until the answer is clear, or the budget is spent.

    `differences`: a measurement is a difference of two clock readings' spans, which noise makes too small as easily as
    too large. The median of such samples is taken, and not the least.
    `n_calls`: of one measurement; by default, as many as the clock needs.
    """
    pace = _pace(measure) if n_calls is None else _Pace(n_calls)
    return _series(measure, budget_s, threshold, pace, differences=differences)


def _series(measure: Measure, budget_s: float, threshold: float, pace: _Pace, *, differences: bool) -> Timing:
    n_calls = pace.n_calls
    logs: list[float] = []
    eager_s: list[float] = []
    kernel_s: list[float] = []
    deadline = time.perf_counter() + budget_s
    palindromes = 1
    typical = statistics.median if differences else min
    while len(logs) < _MAX_QUADS:
        quad = len(logs)
        # Who is first alternates too: what follows a change of program is not the same for both.
        first = quad % 2 == 1
        times: dict[bool, list[float]] = {True: [], False: []}
        for half in range(palindromes):
            outer = first ^ (half % 2 == 1)
            for who in pace.order(outer):
                times[who].append(max(measure(who, n_calls, quad), 1e-12))
        eager, kernel = typical(times[False]), typical(times[True])
        burst = max(times[False]) > _BURST * eager or max(times[True]) > _BURST * kernel
        if burst and palindromes < _MOST_PALINDROMES and time.perf_counter() < deadline + _PATIENCE * budget_s:
            palindromes = min(4 * palindromes, _MOST_PALINDROMES)
            for series in (eager_s, kernel_s, logs):
                series.clear()
            continue
        eager_s.append(eager / n_calls)
        kernel_s.append(kernel / n_calls)
        logs.append(math.log(eager / kernel))
        if len(logs) >= _MIN_QUADS:
            middle, low, high = interval(logs)
            busy = palindromes == _MOST_PALINDROMES
            wide = differences and high - low > _WIDE
            if (low > math.log(threshold) and not wide) or (high < math.log(threshold) and not busy):
                break
            # On a busy machine a gain needs more samples to show; what looks like none gets no more time.
            patient = busy or middle > math.log(_PROMISING)
            if (
                patient
                and pace.long
                and len(logs) < _PATIENT_QUADS
                and time.perf_counter() < deadline + _LONG_PATIENCE_S
            ):
                continue
            if time.perf_counter() > deadline + (_PATIENCE * budget_s if patient else 0.0):
                break
    middle, low, high = interval(logs)
    if differences and high - low > _WIDE:
        low = min(low, 0.0)
    return Timing(
        ratio=math.exp(middle),
        low=math.exp(low),
        high=math.exp(high),
        eager_us=statistics.median(eager_s) * 1e6,
        kernel_us=statistics.median(kernel_s) * 1e6,
    )


def compare(
    measure: Measure,
    budget_s: float,
    threshold: float = THRESHOLD,
    *,
    differences: bool = False,
    n_calls: int | None = None,
) -> Timing:
    """The verdict on speed. A winner is timed a second time, and it is the second series that is reported: the first
    one selected it, so it flatters. To win is to win both."""
    pace = _pace(measure) if n_calls is None else _Pace(n_calls)
    first = _series(measure, budget_s / 2, threshold, pace, differences=differences)
    if not first.wins(threshold):
        return first
    shifted = 1_000_003  # other data sets than the first series began with

    def fresh(kernel: bool, n_calls: int, index: int) -> float:
        return measure(kernel, n_calls, index + shifted)

    return _series(fresh, budget_s / 2, threshold, pace, differences=differences)
