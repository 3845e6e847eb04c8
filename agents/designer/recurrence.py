"""Reductions that depend on another reduction of the same values, and can still be done in the same pass.

    m = max(t);          s = sum(exp(t - m))          "exponential": s is rescaled when m grows
    m = sum(t) / n;      s = sum((t - m) * (t - m))   "deviation": the mean and the squares are updated together

Without this, a row that is too long to hold is read once for each; and chunks of a row could not be reduced apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from akg_dynamo.agents.designer.domain import Index, RedRef, Tile, Tiles
from akg_dynamo.agents.designer.prims import Prim
from akg_dynamo.agents.designer.sizes import Size


@dataclass(frozen=True)
class Recurrence:
    """How a reduction follows from `base`'s values: `about` is what is subtracted from each, an expression of `ref`."""

    kind: str  # "exponential" or "deviation"
    ref: RedRef
    about: Tile


@dataclass(frozen=True)
class Reduced:
    """A reduction that others may depend on: `op` over `terms` values of `tile`, whose result is `prim`."""

    op: str
    tile: Tile
    prim: Prim
    terms: Size


def recurrence(op: str, tile: Tile, base: Reduced) -> Recurrence | None:
    """How the reduction `op` over `tile` follows from `base`, if it does."""
    if op != "sum" or not tile.dtype.is_float:
        return None
    if base.op == "max" and _is(tile, "exp"):
        difference = tile.args[0]
        if _is(difference, "sub") and difference.args[0] is base.tile:
            about = difference.args[1]
            ref = _same_when_finite(about, base.prim)
            return None if ref is None else Recurrence("exponential", ref, about)
    if base.op == "sum" and _is(tile, "mul") and tile.args[0] is tile.args[1]:
        difference = tile.args[0]
        if _is(difference, "sub") and difference.args[0] is base.tile:
            about = difference.args[1]
            if _is(about, "div") and _is_ref(about.args[0], base.prim) and _counts(about.args[1], base):
                return Recurrence("deviation", about.args[0].attr, about)
    return None


def _is(tile: Tile, op: str) -> bool:
    return tile.kind == "op" and tile.attr == op


def _is_ref(tile: Tile, prim: Prim) -> bool:
    return tile.kind == "red" and tile.attr.prim is prim


def _same_when_finite(about: Tile, prim: Prim) -> RedRef | None:
    """The reference, if `about` is the reduction itself, or that unless it is infinite."""
    ref: RedRef
    if _is_ref(about, prim):
        ref = about.attr
        return ref
    if _is(about, "where") and about.args[1].kind == "const" and _is_ref(about.args[2], prim):
        condition = about.args[0]
        if _is(condition, "eq") and condition.args[1].kind == "const" and abs(condition.args[1].attr) == math.inf:
            tested = condition.args[0]
            if _is_ref(tested.args[0] if _is(tested, "abs") else tested, prim):
                ref = about.args[2].attr
                return ref
    return None


def _counts(tile: Tile, base: Reduced) -> bool:
    """Whether it is the number of terms that were added up."""
    while tile.kind == "cast":
        tile = tile.args[0]
    if tile.kind == "count":
        return tile.attr.prim is base.prim
    if tile.kind == "index":
        index: Index = tile.attr
        return not index.terms and index.const == base.terms
    return tile.kind == "const" and tile.attr == base.terms


def replaced(tile: Tile, tiles: Tiles, change: Callable[[Tile], Tile | None]) -> Tile:
    """The expression with every leaf for which `change` gives something replaced by that."""
    memo: dict[int, Tile] = {}

    def walk(t: Tile) -> Tile:
        found = memo.get(id(t))
        if found is None:
            changed = change(t) if not t.args else None
            found = changed or (tiles.make(t.kind, t.dtype, tuple(walk(a) for a in t.args), t.attr) if t.args else t)
            memo[id(t)] = found
        return found

    return walk(tile)


def count(prim: Prim, chunk: Index, tiles: Tiles) -> Tile:
    """How many terms went into one chunk of the partial reduction `prim`, in its dtype."""
    return tiles.make("count", prim.dtype, (), RedRef(prim, (chunk,)), chunk.axes)
