"""How the lanes of a tile lie over the threads of a block.

Along each axis, lane l belongs to thread ``l % threads`` and is that thread's slot ``l // threads``. Neighbours among
the threads are neighbours along the axis on which the tile's memory is contiguous, so that a warp touches whole lines.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from akg_dynamo.agents.lowering.index import is_const, strides_of
from akg_dynamo.agents.lowering.ir import Access, Axis, IndexSpan

WARP = 32


@dataclass(frozen=True)
class Layout:
    """Of the tiles with these axes.

    widths: lanes, powers of two. threads: how many share each axis. fastest: the axis along which neighbours go.
    """

    axes: tuple[Axis, ...]
    widths: tuple[int, ...]
    threads: tuple[int, ...]
    fastest: int

    @property
    def active(self) -> int:
        """The threads that have lanes; they come first."""
        return math.prod(self.threads)

    @property
    def lanes(self) -> int:
        """Of the whole tile."""
        return math.prod(self.widths)

    @property
    def slots(self) -> int:
        """Lanes of a thread."""
        return self.lanes // self.active

    def of(self, axis: Axis) -> Along:
        """One axis of it."""
        at = self.axes.index(axis)
        return Along(
            axis,
            self.widths[at],
            self.threads[at],
            stride=1 if at == self.fastest else self.threads[self.fastest] * self._faster(at),
            pitch=math.prod(self.widths[at + 1 :]),
        )

    def _faster(self, at: int) -> int:
        """The threads along axes that come after this one, but for the fastest."""
        return math.prod(t for n, t in enumerate(self.threads) if n > at and n != self.fastest)


@dataclass(frozen=True)
class Along:
    """An axis of a layout. stride: between threads that are neighbours along it. pitch: between its lanes in memory."""

    axis: Axis
    width: int
    threads: int
    stride: int
    pitch: int

    @property
    def slots(self) -> int:
        """Lanes along it that one thread has."""
        return self.width // self.threads

    @property
    def thread(self) -> str:
        """Which of its threads this one is."""
        quotient = "threadIdx.x" if self.stride == 1 else f"threadIdx.x / {self.stride}"
        return "0" if self.threads == 1 else f"{quotient} % {self.threads}"

    @property
    def steps(self) -> list[int]:
        """Distances of an exchange among its threads in which each gets what all have."""
        return [self.stride << bit for bit in range(self.threads.bit_length() - 1)]


def layout(axes: tuple[Axis, ...], widths: tuple[int, ...], block: int, fastest: int, *, square: bool) -> Layout:
    """Over a block of that many threads. square: with near-square pieces of two axes in each thread."""
    threads = [1] * len(axes)
    order = [fastest, *(n for n in reversed(range(len(axes))) if n != fastest)] if axes else []
    if square and len(axes) >= 2:
        column, row = order[:2]
        rows, columns = widths[row], widths[column]
        shared = min(block, rows * columns)
        choices = [1 << k for k in range(shared.bit_length()) if 1 << k <= columns and shared >> k <= rows]
        threads[column] = min(choices, key=lambda t: rows // (shared // t) + columns // t - t / (2 * block))
        threads[row] = shared // threads[column]
        block //= shared
        order = order[2:]
    for at in order:
        threads[at] = min(block, widths[at])
        block //= threads[at]
    return Layout(axes, widths, tuple(threads), fastest)


def fastest_axis(axes: tuple[Axis, ...], accesses: Iterable[Access]) -> int:
    """The position of the axis along which most of these accesses are contiguous; the last one when in doubt."""
    votes = [0] * len(axes)
    for access in accesses:
        for index, stride in zip(access.indices, strides_of(access.tensor), strict=True):
            if isinstance(index, IndexSpan) and index.axis in axes and is_const(stride, 1):
                votes[axes.index(index.axis)] += 1
    return max(range(len(axes)), key=lambda at: (votes[at], at), default=0)
