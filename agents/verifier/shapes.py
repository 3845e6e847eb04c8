"""Sizes: the value of a dim, and which members of a shape class are tried."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from functools import cache
from types import CodeType

import torch

from akg_dynamo.core.types import Dim, Subgraph, Symbol, TensorSpec

_BOUNDARIES = (2, 3, 7, 16, 17, 31, 63, 64, 65, 127, 129, 257, 509, 1023, 1025)
_PRIMES = (5, 7, 11, 13, 29, 61, 113)
_BESIDE_BLOCKS = (15, 17, 31, 33, 63, 65, 127, 129)
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


def memory_order(shape: Sequence[int], stride: Sequence[int]) -> tuple[int, ...] | None:
    """The dims from the farthest apart in memory to the nearest, if the elements lie there without gaps, each once."""
    order = tuple(sorted(range(len(shape)), key=lambda d: (-stride[d], shape[d])))
    step = 1
    for d in reversed(order):
        if shape[d] != 1:
            if stride[d] != step:
                return None
            step *= shape[d]
    return order


def elements(sub: Subgraph, symbols: Mapping[str, int]) -> int:
    """Elements of all inputs and outputs together."""
    specs: list[TensorSpec] = [*sub.inputs, *sub.output_specs]
    return sum(math.prod(values(s.shape, symbols)) for s in specs)


def exist(sub: Subgraph, symbols: Mapping[str, int]) -> bool:
    """Whether there are tensors of those sizes: a dim that is the difference of two may not be negative."""
    dims = {d for spec in (*sub.inputs, *sub.output_specs) for d in spec.shape if isinstance(d, str)}
    return all(value(d, symbols) >= 0 for d in dims)


def storage_bytes(sub: Subgraph, symbols: Mapping[str, int]) -> int:
    """Bytes of all inputs as they lie in memory, a slice with what it was cut from, and of all outputs."""
    total = 0
    for spec in sub.inputs:
        total += storage_elements(values(spec.shape, symbols), values(spec.stride, symbols)) * _item_bytes(spec)
    for spec in sub.output_specs:
        total += math.prod(values(spec.shape, symbols)) * _item_bytes(spec)
    return total


def _item_bytes(spec: TensorSpec) -> int:
    dtype: torch.dtype = getattr(torch, spec.dtype)
    return dtype.itemsize


def _limited(symbol: Symbol, wanted: int) -> int:
    return max(symbol.lo, min(wanted, symbol.hi if symbol.hi is not None else wanted))


def full(sub: Subgraph) -> dict[str, int]:
    """The sizes it was traced at, whatever they take."""
    return {s.name: _limited(s, s.hint) for s in sub.symbols}


def members(
    sub: Subgraph, limit_elements: int, seed: int, *, member_elements: int = 200_000, at_most: int = 7
) -> list[dict[str, int]]:
    """The sizes to judge at: the traced one first, then the boundaries of the class, with few elements each.

    All symbols at the lower end and one past it; each at its upper end, or past any block, the others as traced or, if
    that is too much, at their lower ends; all at primes, and all one beside a block. Each member costs a judgement:
    those after the first take no more than `member_elements`, except the lower ends if they must. If the traced sizes
    need more than `limit_elements`, smaller ones stand for them.
    """
    if not sub.symbols:
        return [{}]
    rng = random.Random(seed)
    hint = within(sub, full(sub), limit_elements)
    if hint is None or not exist(sub, hint):
        return []
    lowest = {s.name: s.lo for s in sub.symbols}
    least = elements(sub, lowest)
    room = min(limit_elements, max(member_elements, 4 * least))
    found = [hint, lowest, {s.name: _limited(s, s.lo + 1) for s in sub.symbols}]
    found += [
        large for s in rng.sample(sub.symbols, len(sub.symbols)) for large in _largest(sub, s, hint, lowest, room)
    ]
    # What several sizes at once find comes before the upper ends of the third and later symbols.
    for place, choices in ((4, _PRIMES), (5, _BESIDE_BLOCKS)):
        found.insert(place, _shrunk(sub, {s.name: _limited(s, rng.choice(choices)) for s in sub.symbols}, lowest, room))
    unique: list[dict[str, int]] = [hint]
    for sizes in found[1:]:
        most = limit_elements if sizes == lowest else room
        if sizes not in unique and exist(sub, sizes) and elements(sub, sizes) <= most:
            unique.append(sizes)
    return unique[:at_most]


def within(sub: Subgraph, sizes: Mapping[str, int], limit_elements: int) -> dict[str, int] | None:
    """Those sizes, the larger ones halved until there are no more elements than that; None if they cannot be so few."""
    found = dict(sizes)
    while elements(sub, found) > limit_elements:
        largest = max(sub.symbols, key=lambda s: found[s.name] / max(s.lo, 1))
        smaller = _limited(largest, found[largest.name] // 2)
        if smaller == found[largest.name]:
            return None
        found[largest.name] = smaller
    return found


def near(sub: Subgraph, sizes: Mapping[str, int], rng: random.Random, limit_elements: int) -> list[dict[str, int]]:
    """Two more sizes of that class, neither much smaller nor much larger; of a single size, none."""
    found: list[dict[str, int]] = []
    for least, most in ((0.25, 0.75), (1.25, 2.0)):
        drawn = {s.name: _limited(s, round(sizes[s.name] * rng.uniform(least, most))) for s in sub.symbols}
        if drawn not in (*found, sizes) and exist(sub, drawn) and elements(sub, drawn) <= limit_elements:
            found.append(drawn)
    return found


def _largest(
    sub: Subgraph, symbol: Symbol, hint: Mapping[str, int], lowest: Mapping[str, int], room: int
) -> list[dict[str, int]]:
    """That symbol as large as there is room for: at its upper end, or at the largest of the boundaries."""
    wanted = [_limited(symbol, w) for w in reversed(_BOUNDARIES)]
    if symbol.hi is not None:
        wanted.insert(0, symbol.hi)
    for size in wanted:
        for others in (hint, lowest):
            sizes = {**others, symbol.name: size}
            if size > symbol.lo and exist(sub, sizes) and elements(sub, sizes) <= room:
                return [sizes]
    return []


def _shrunk(sub: Subgraph, sizes: dict[str, int], lowest: Mapping[str, int], room: int) -> dict[str, int]:
    """Those sizes, the largest of them moved to the lower end until the rest fits."""
    sizes = dict(sizes)
    while elements(sub, sizes) > room and sizes != lowest:
        largest = max(sizes, key=lambda name: sizes[name] - lowest[name])
        sizes[largest] = lowest[largest]
    return sizes
