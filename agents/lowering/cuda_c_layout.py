"""How the lanes of a tile lie over the threads of a block.

Along each axis, lane l belongs to thread ``l % threads`` and is that thread's slot ``l // threads``. The threads of a
block are counted with the last axis moving fastest, so that neighbours touch neighbouring elements.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from akg_dynamo.agents.lowering.ir import Axis

WARP = 32


@dataclass(frozen=True)
class Layout:
    """Of the tiles with these axes. `widths`: lanes, powers of two. `threads`: how many share each axis."""

    axes: tuple[Axis, ...]
    widths: tuple[int, ...]
    threads: tuple[int, ...]

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
            stride=math.prod(self.threads[at + 1 :]),
            pitch=math.prod(self.widths[at + 1 :]),
        )


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


def layout(axes: tuple[Axis, ...], widths: tuple[int, ...], block: int, *, square: bool) -> Layout:
    """Over a block of that many threads. square: with near-square pieces of the last two axes in each thread."""
    threads = [1] * len(axes)
    if square and len(axes) >= 2:
        rows, columns = widths[-2:]
        shared = min(block, rows * columns)
        choices = [1 << k for k in range(shared.bit_length()) if 1 << k <= columns and shared >> k <= rows]
        threads[-1] = min(choices, key=lambda t: rows // (shared // t) + columns // t - t / (2 * block))
        threads[-2] = shared // threads[-1]
        block //= shared
    for at in reversed(range(len(axes))):
        if threads[at] == 1 and not (square and at >= len(axes) - 2):
            threads[at] = min(block, widths[at])
            block //= threads[at]
    return Layout(axes, widths, tuple(threads))
