"""Which of several variants of a kernel is the fastest? Timed in turn, there and back, without eager.

Two series beside eager tell two variants apart only by the noise of four; here each round is a comparison of all, a
drift of the machine falls on all alike, and who is clearly behind drops out. It is a choice and no verdict: what wins
is judged, and timed beside eager, like any kernel.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable

Cost = Callable[[int, int], float]
"""`cost(who, data_set)`: seconds of one call of that variant."""

_ROUNDS = 8
_FEWEST = 4
_BEHIND = 1.1


def race(cost: Cost, n: int, budget_s: float) -> list[float]:
    """Seconds of one call of each of the `n` variants."""
    samples: list[list[float]] = [[] for _ in range(n)]
    middle = [math.inf] * n
    running = list(range(n))
    deadline = time.perf_counter() + budget_s
    for number in range(_ROUNDS):
        for who in running if number % 2 == 0 else running[::-1]:
            samples[who].append(cost(who, number))
            middle[who] = statistics.median(samples[who])
        if number + 1 < _FEWEST or number % 2 == 0:  # only a way there and back is fair
            continue
        running = [who for who in running if middle[who] <= _BEHIND * min(middle)]
        if len(running) <= 1 or time.perf_counter() > deadline:
            break
    return middle
