"""Planes in which windows slide, as one axis: what a warp takes is then neighbouring results, however wide a plane is.

A window's places are no vectors: every other element, or off a vector's bounds. A thread that has several neighbouring
results, as the store would like it, is as far from the next thread, and a load of a warp is of as many lines. So each
thread has one result, and its row and column are computed:

    before   for i in range(0, 56), for j in range(0, 56, BN): y[i, j] = max(x[2i - 1, 2j - 1], …)
    after    for j in range(0, 3136, BN): y[j] = max(x[2(j // 56) - 1, 2(j % 56) - 1], …)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from akg_dynamo.agents.designer.domain import Access, Axis, Index, Tile, Tiles, leaves
from akg_dynamo.agents.designer.nests import Member, Nest, coefficients, nest_accesses
from akg_dynamo.agents.designer.prims import Storage
from akg_dynamo.agents.designer.sizes import product
from akg_dynamo.agents.sketch.ast import DType

MANY_PLACES = 4  # of one tensor: fewer are what rotations, shifts and slices read
VECTOR_BYTES = 16
_MOST = 1 << 31  # numbers of elements have 32 bits


def scattered(nest: Nest) -> bool:
    """Whether most loads are of elements that no vector holds."""
    vector = nest.vector
    if vector is None:
        return False
    places: Counter[Storage] = Counter()
    for access in {a for m in nest.members for a in leaves(m.tile)[1]}:
        places[access.storage] += _is_scattered(access, vector)
    return max(places.values(), default=0) >= MANY_PLACES


def _is_scattered(access: Access, vector: Axis) -> bool:
    if any(i.tile is not None and vector in i.tile.axes for i in access.indices):
        return True
    step = coefficients(access).get(vector, 0)
    start = sum(i.const * s for i, s in zip(access.indices, access.storage.strides, strict=True))
    aligned = isinstance(start, int) and start * access.storage.dtype.size_bytes % VECTOR_BYTES == 0
    return step != 0 and (step != 1 or not aligned)


def flatten(nest: Nest) -> None:
    """Make one axis of those that windows slide along, where results are neighbours along both of two."""
    slides = {a for access in nest_accesses(nest) for i in access.indices if i.loose for a, _ in i.terms}
    while (pair := next(_pairs(nest, slides), None)) is not None:
        outer, inner = pair
        merged = Axis(outer.extent * inner.extent)
        flat = _Flattened(nest.tiles, outer, inner, merged)
        for member in nest.members:
            flat.rewrite(member)
        if nest.vector in pair:
            nest.vector = merged
        nest.outer[nest.outer.index(inner)] = merged
        nest.outer.remove(outer)
        slides.add(merged)


def _pairs(nest: Nest, slides: set[Axis]) -> Iterator[tuple[Axis, Axis]]:
    total = product(a.extent for a in nest.outer)
    if not isinstance(total, int) or total >= _MOST:
        return
    plain = [coefficients(a) for a in nest_accesses(nest) if not _is_loose(a)]
    for a in nest.outer:
        for b in nest.outer:
            if a is not b and {a, b} <= slides and all(v.get(a, 0) == v.get(b, 0) * b.extent for v in plain):
                yield a, b


def _is_loose(access: Access) -> bool:
    return any(i.loose for i in access.indices)


class _Flattened:
    """Rewrites what varies over two axes over their merged one: affine where it can be, else by row and column."""

    def __init__(self, tiles: Tiles, outer: Axis, inner: Axis, merged: Axis) -> None:
        self._tiles, self._outer, self._inner, self._merged = tiles, outer, inner, merged
        number, size = tiles.index(Index(((merged, 1),))), tiles.size(inner.extent)
        self._digits = {outer: tiles.op("floordiv", number, size), inner: tiles.op("mod", number, size)}
        self._memo: dict[int, Tile] = {}

    def rewrite(self, member: Member) -> None:
        """A member's value and place."""
        member.tile = self._tile(member.tile)
        member.at = tuple(self._followed(i) for i in member.at)

    def _tile(self, tile: Tile) -> Tile:
        found = self._memo.get(id(tile))
        if found is None:
            found = self._memo[id(tile)] = self._rebuilt(tile)
        return found

    def _rebuilt(self, tile: Tile) -> Tile:
        if tile.kind == "index":
            terms = dict(tile.attr.terms)
            follows = terms.get(self._outer, 0) == terms.get(self._inner, 0) * self._inner.extent
            return self._tiles.index(self._followed(tile.attr) if follows else self._computed(tile.attr))
        if tile.kind == "load":
            index = self._computed if _is_loose(tile.attr) else self._followed
            at = tuple(index(i) for i in tile.attr.indices)
            varies = frozenset[Axis]().union(*(i.axes for i in at))
            return self._tiles.make("load", tile.dtype, (), replace(tile.attr, indices=at), varies)
        return self._tiles.make(tile.kind, tile.dtype, tuple(self._tile(a) for a in tile.args), tile.attr)

    def _followed(self, index: Index) -> Index:
        terms = tuple((self._merged if a is self._inner else a, c) for a, c in index.terms if a is not self._outer)
        return replace(index, terms=terms, tile=None if index.tile is None else self._tile(index.tile))

    def _computed(self, index: Index) -> Index:
        tile = None if index.tile is None else self._tile(index.tile)
        for axis, digit in self._digits.items():
            step = dict(index.terms).get(axis, 0)
            if step != 0:
                part = digit if step == 1 else self._tiles.op("mul", digit, self._constant(step))
                tile = part if tile is None else self._tiles.op("add", tile, part)
        kept = tuple((a, c) for a, c in index.terms if a not in self._digits)
        return replace(index, terms=kept, tile=tile)

    def _constant(self, step: object) -> Tile:
        assert isinstance(step, int)
        return self._tiles.const(step, DType.I64)
