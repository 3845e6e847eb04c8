"""Two nested claims about sizes: the class in which a kernel was judged right, and the part of it where it pays.

`[2, infinity)` can be neither judged nor always faster. So a symbolic subgraph is judged on a bounded class, sampled at
its boundaries, and its guard admits exactly that class; inside it, timings at a few sizes say where the kernel is used.
Static subgraphs are the trivial case: no symbols, one point.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from akg_dynamo.core.types import Subgraph, Timing

_HEADROOM = 8
"""A class reaches this many times above the size seen first: ordinary growth (batches, sequences) stays inside."""

_MIN_CEILING = 4096


@dataclass(frozen=True)
class SymbolRange:
    """`lo <= name <= hi`, and name divisible by `multiple`."""

    name: str
    lo: int
    hi: int
    multiple: int = 1

    def admits(self, value: int) -> bool:
        """Whether a size lies in the class."""
        return self.lo <= value <= self.hi and value % self.multiple == 0


@dataclass(frozen=True)
class ShapeClass:
    """The sizes a kernel was judged on. Strides are part of the subgraph itself (derived, symbolic or 0 per dim)."""

    symbols: tuple[SymbolRange, ...] = ()

    @property
    def text(self) -> str:
        """Canonical text, for the key."""
        return "; ".join(f"{s.lo}<={s.name}<={s.hi} %{s.multiple}" for s in self.symbols)

    def admits(self, values: Sequence[int]) -> bool:
        """The guard: exactly what was judged."""
        return len(values) == len(self.symbols) and all(s.admits(v) for s, v in zip(self.symbols, values, strict=True))

    def boundary_samples(self) -> tuple[tuple[int, ...], ...]:
        """Symbol values to judge at: every corner pulled in one symbol at a time, and values that leave tails.

        One symbol varies while the others stay in the middle (a full product would be exponential in symbols).
        """
        if not self.symbols:
            return ((),)
        middle = tuple(_round_to(math.isqrt(s.lo * min(s.hi, 1024)), s) for s in self.symbols)
        samples = [middle, tuple(_round_to(s.lo, s) for s in self.symbols)]
        for i, s in enumerate(self.symbols):
            # powers of two and their neighbours are where vector tails and tile tails begin and end
            for value in (s.lo, s.lo + 1, 15, 16, 17, 63, 65, 127, 257, 1023, s.hi):
                if s.admits(value):
                    samples.append((*middle[:i], value, *middle[i + 1 :]))
        return tuple(dict.fromkeys(samples))


def of(sub: Subgraph) -> ShapeClass:
    """The class a subgraph is judged on: the tracer's bounds, closed above within reach of the size seen first."""
    ranges = []
    for s in sub.symbols:
        ceiling = max(_MIN_CEILING, _HEADROOM * (1 << max(0, s.hint - 1).bit_length()))
        ranges.append(SymbolRange(s.name, s.lo, ceiling if s.hi is None else min(s.hi, ceiling)))
    return ShapeClass(tuple(ranges))


def _round_to(value: int, s: SymbolRange) -> int:
    up = -(-max(value, s.lo) // s.multiple) * s.multiple
    return min(up, s.hi // s.multiple * s.multiple)


@dataclass(frozen=True)
class PayingSizes:
    """Where a kernel pays, by amount of work (elements): `intervals` are closed, ascending and disjoint."""

    intervals: tuple[tuple[float, float], ...]

    def pays(self, elements: float) -> bool:
        """Whether a launch of this size is expected to win."""
        return any(lo <= elements <= hi for lo, hi in self.intervals)


def paying_sizes(measured: Mapping[int, Timing], threshold: float = 1.02) -> PayingSizes:
    """Intervals from timings by size. A win reaches half-way (geometrically) to the nearest loss, and no further than a
    factor of two beyond what was measured: nothing is claimed for sizes far from any measurement.
    """
    points = sorted(measured)
    intervals: list[tuple[float, float]] = []
    for i, size in enumerate(points):
        if not measured[size].wins(threshold):
            continue
        below = points[i - 1] if i > 0 else None
        above = points[i + 1] if i + 1 < len(points) else None
        lo = size / 2 if below is None else math.sqrt(below * size)
        hi = size * 2 if above is None else math.sqrt(above * size)
        if intervals and intervals[-1][1] >= lo:
            intervals[-1] = (intervals[-1][0], hi)
        else:
            intervals.append((lo, hi))
    return PayingSizes(tuple(intervals))
