"""Sizes: the value of a dim, and which members of a shape class are tried."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from functools import cache
from types import CodeType

from akg_dynamo.core.types import Dim, Subgraph, Symbol, TensorSpec

_BOUNDARIES = (2, 3, 7, 16, 17, 31, 63, 64, 65, 127, 129, 257, 509, 1023, 1025)
_NAMES = {"__builtins__": {}, "min": min, "max": max}


@cache
def _compiled(dim: str) -> CodeType:
    return compile(dim, "<dim>", "eval")


def value(dim: Dim, symbols: Mapping[str, int]) -> int:
    """The value of a dim, an expression of our own making over the subgraph's symbols."""
    return dim if isinstance(dim, int) else int(eval(_compiled(dim), _NAMES, dict(symbols)))


def values(dims: Sequence[Dim], symbols: Mapping[str, int]) -> tuple[int, ...]:
    """The values of several."""
    return tuple(value(d, symbols) for d in dims)


def storage_elements(shape: Sequence[int], stride: Sequence[int]) -> int:
    """How many elements a tensor of that layout spans."""
    return 0 if 0 in shape else 1 + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))


def elements(sub: Subgraph, symbols: Mapping[str, int]) -> int:
    """Elements of all inputs and outputs together."""
    specs: list[TensorSpec] = [*sub.inputs, *sub.output_specs]
    return sum(math.prod(values(s.shape, symbols)) for s in specs)


def _limited(symbol: Symbol, wanted: int) -> int:
    return max(symbol.lo, min(wanted, symbol.hi if symbol.hi is not None else wanted))


def members(sub: Subgraph, limit_elements: int, seed: int, at_most: int = 12) -> list[dict[str, int]]:
    """The sizes to judge at: the traced one first, then each symbol at its boundaries, then a few at random.

    Sizes that need more than `limit_elements` are left out; if the traced one does, a smaller member stands for it.
    """
    if not sub.symbols:
        return [{}]
    rng = random.Random(seed)
    hint = {s.name: _limited(s, s.hint) for s in sub.symbols}
    while elements(sub, hint) > limit_elements:
        largest = max(sub.symbols, key=lambda s: hint[s.name] / max(s.lo, 1))
        smaller = _limited(largest, hint[largest.name] // 2)
        if smaller == hint[largest.name]:
            return []
        hint[largest.name] = smaller
    lowest = {s.name: s.lo for s in sub.symbols}
    found = [hint, lowest]
    for wanted in (0, 1, 1025, 1 << 62):  # the lower end, and past it; more than any block; the upper end
        for s in sub.symbols:
            if wanted < 1 << 62 or s.hi is not None:
                found.append({**hint, s.name: max(s.lo + wanted if wanted < 2 else _limited(s, wanted), s.lo)})
    around = [{**hint, s.name: _limited(s, w)} for s in sub.symbols for w in _BOUNDARIES]
    around += [{s.name: _limited(s, rng.choice(_BOUNDARIES)) for s in sub.symbols} for _ in range(8)]
    rng.shuffle(around)
    unique: list[dict[str, int]] = []
    for sizes in found + around:
        inside = all(s.hi is None or sizes[s.name] <= s.hi for s in sub.symbols)
        if inside and sizes not in unique and elements(sub, sizes) <= limit_elements:
            unique.append(sizes)
    return unique[:at_most]
