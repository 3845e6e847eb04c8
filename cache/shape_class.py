"""The class of sizes that a kernel for symbolic sizes is filed under: bounded, around the size that was seen first.

`[2, infinity)` would be one class, and a verdict at one size would then speak for all of them. Static subgraphs are the
trivial case: no symbols.
"""

from __future__ import annotations

from dataclasses import dataclass

from akg_dynamo.core.types import Subgraph

_HEADROOM = 8
"""A class reaches this many times above the size seen first: ordinary growth (batches, sequences) stays inside."""

_MIN_CEILING = 4096


@dataclass(frozen=True)
class SymbolRange:
    """`lo <= name <= hi`."""

    name: str
    lo: int
    hi: int


@dataclass(frozen=True)
class ShapeClass:
    """A range for each symbol. Strides are part of the subgraph itself (derived, symbolic or 0 per dim)."""

    symbols: tuple[SymbolRange, ...] = ()

    @property
    def text(self) -> str:
        """Canonical text, for the key."""
        return "; ".join(f"{s.lo}<={s.name}<={s.hi}" for s in self.symbols)


def of(sub: Subgraph) -> ShapeClass:
    """The subgraph's class: the tracer's bounds, closed above within reach of the size seen first."""
    ranges = []
    for s in sub.symbols:
        ceiling = max(_MIN_CEILING, _HEADROOM * (1 << max(0, s.hint - 1).bit_length()))
        ranges.append(SymbolRange(s.name, s.lo, ceiling if s.hi is None else min(s.hi, ceiling)))
    return ShapeClass(tuple(ranges))
