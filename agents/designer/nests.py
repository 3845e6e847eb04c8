"""Loop nests: what a schedule is made of, and how one is finished: passes, merged axes, the order of loops, vectors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from akg_dynamo.agents.designer.domain import Access, Axis, Index, Indices, RedRef, Sink, Tile, Tiles, leaves
from akg_dynamo.agents.designer.prims import Number, Prim, Storage
from akg_dynamo.agents.designer.sizes import Size, SizeFacts, product

MIN_PARALLEL = 16  # fewer rows (or column tiles) than this do not keep the cores busy
COLUMN_TILE = 256


@dataclass
class Member:
    """A sink in a nest, rewritten over the nest's axes.

    inner: its axes besides the nest's outer ones, row-major. at: where its value goes in its target. position: for
    arg-max and arg-min, the number of an element among those reduced. chunk: the outer axis that numbers chunks.
    """

    sink: Sink
    outer: dict[Axis, Axis]  # the sink's axis -> the nest's
    inner: list[Axis]
    tile: Tile
    at: Indices
    position: Index | None = None
    chunk: Axis | None = None
    level: int = 0

    def rename(self, axes: Mapping[Axis, Axis | None], tiles: Tiles) -> None:
        """Rename axes everywhere (to None: its share has gone into another axis)."""
        self.tile = substitute(self.tile, axes, tiles)
        self.at = tuple(_renamed(i, axes) for i in self.at)
        if self.position is not None:
            self.position = _renamed(self.position, axes)


@dataclass
class Pass:
    """Members that share inner loops: reductions accumulate, the others store."""

    inner: list[Axis]
    members: list[Member]
    across: Axis | None = None  # an inner axis tiled beside the nest's vectorised one, as `Nest.across`


@dataclass
class Carried:
    """A value that a loop carries from trip to trip: read as `source`, computed as `target`; neither is in memory.

    member: what computes it. final: where it goes after the last trip.
    """

    source: Storage | None
    target: Storage
    initial: Number
    member: Member
    final: Storage | None = None


@dataclass
class Trips:
    """A loop around a nest's passes, whose trips follow one another. axis: their number."""

    axis: Axis
    carried: list[Carried] = field(default_factory=list)


@dataclass
class Nest:
    """Outer axes, and passes over inner axes inside them; perhaps a loop around the passes."""

    outer: list[Axis]
    members: list[Member] = field(default_factory=list)
    passes: list[Pass] = field(default_factory=list)
    tiles: Tiles = field(default_factory=Tiles)
    vector: Axis | None = None  # when the vectorised axis is an outer one
    across: Axis | None = None  # tiled beside it: the axis along which other accesses are contiguous
    trips: Trips | None = None

    def holds(self, prim: Prim) -> Member | None:
        """The member that computes a reduction."""
        for m in self.members:
            if m.sink.prim is prim and m.sink.is_reduction:
                return m
        return None


def same_access(a: Access, b: Access) -> dict[Axis, Axis] | None:
    """The axis correspondence under which two accesses are the same, if there is one."""
    if a.storage is not b.storage:
        return None
    pairs: dict[Axis, Axis] = {}
    for i, j in zip(a.indices, b.indices, strict=True):
        if i.tile is not j.tile or i.const != j.const or len(i.terms) != len(j.terms):
            return None
        for (x, c), (y, e) in zip(i.terms, j.terms, strict=True):
            if c != e or x.extent != y.extent or pairs.setdefault(x, y) is not y:
                return None
    return pairs if len(set(pairs.values())) == len(pairs) else None


# --------------------------------------------------------------------------------------------------------------------
# Rewriting over other axes


def substitute(
    tile: Tile, axes: Mapping[Axis, Axis | None], tiles: Tiles, stored: Mapping[Prim, Storage] | None = None
) -> Tile:
    """The same expression with axes renamed (None: dropped) and the reductions in `stored` loaded from there."""
    memo: dict[int, Tile] = {}

    def index(i: Index) -> Index:
        moved = _renamed(i, axes)
        return moved if i.tile is None else Index(moved.terms, moved.const, walk(i.tile), moved.loose)

    def walk(t: Tile) -> Tile:
        found = memo.get(id(t))
        if found is None:
            found = memo[id(t)] = rebuild(t)
        return found

    def rebuild(t: Tile) -> Tile:
        if t.kind == "index":
            i = index(t.attr)
            return tiles.make("index", t.dtype, (), i, i.axes)
        if t.kind in ("load", "red", "count"):
            at = tuple(index(i) for i in t.attr.indices)
            varies = frozenset[Axis]().union(*(i.axes for i in at))
            if t.kind == "load":
                return tiles.make("load", t.dtype, (), replace(t.attr, indices=at), varies)
            prim = t.attr.prim
            if t.kind == "red" and stored is not None and prim in stored:
                return tiles.make("load", t.dtype, (), Access(stored[prim], at), varies)
            return tiles.make(t.kind, t.dtype, (), RedRef(prim, at), varies)
        return tiles.make(t.kind, t.dtype, tuple(walk(a) for a in t.args), t.attr)

    return walk(tile)


def _renamed(index: Index, axes: Mapping[Axis, Axis | None]) -> Index:
    terms = [(axes.get(a, a), c) for a, c in index.terms]
    return Index(tuple((a, c) for a, c in terms if a is not None), index.const, index.tile, index.loose)


# --------------------------------------------------------------------------------------------------------------------
# Finishing a nest: passes, collapsed axes, the vectorised axis


def finish(nest: Nest, facts: SizeFacts) -> None:
    """Group members into passes, collapse axes that travel together, order loops and choose what is vectorised."""
    for level in sorted({m.level for m in nest.members}):
        groups: list[Pass] = []
        for member in (m for m in nest.members if m.level == level):
            _place(nest, groups, member)
        nest.passes += groups
    collapse(nest)
    _choose_vector(nest, facts)


def _place(nest: Nest, groups: list[Pass], member: Member) -> None:
    for group in groups:
        pairs = shared_inner(group, member)
        if pairs is not None:
            member.rename(pairs, nest.tiles)
            member.inner = group.inner
            group.members.append(member)
            return
    groups.append(Pass(member.inner, [member]))


def shared_inner(group: Pass, member: Member) -> dict[Axis, Axis] | None:
    """The member's inner axes as the pass's, when its loops are the same ones."""
    if len(group.inner) != len(member.inner):
        return None
    for other in group.members:
        for a in leaves(member.tile)[1]:
            for b in leaves(other.tile)[1]:
                pairs = same_access(a, b)
                if pairs is None or any(x is not y for x, y in pairs.items() if x not in member.inner):
                    continue
                mine = {x: y for x, y in pairs.items() if x in member.inner}
                if len(mine) == len(member.inner) and all(y in group.inner for y in mine.values()):
                    return mine
    if [a.extent for a in group.inner] == [a.extent for a in member.inner]:
        return dict(zip(member.inner, group.inner, strict=True))
    return None


def nest_accesses(nest: Nest) -> Iterator[Access]:
    """Every load and store of a nest."""
    for member in nest.members:
        yield from leaves(member.tile)[1]
        if member.sink.target is not None:
            yield Access(member.sink.target, member.at)


def coefficients(access: Access) -> dict[Axis, Size]:
    """Elements between neighbours along each axis."""
    total: dict[Axis, Size] = {}
    for index, stride in zip(access.indices, access.storage.strides, strict=True):
        for axis, c in index.terms:
            total[axis] = total.get(axis, 0) + c * stride
    return total


def _index_tiles(nest: Nest) -> Iterator[Index]:
    """The indices that are used as numbers."""
    seen: set[int] = set()
    stack = [m.tile for m in nest.members]
    while stack:
        t = stack.pop()
        if id(t) in seen:
            continue
        seen.add(id(t))
        stack.extend(t.below)
        if t.kind == "index":
            yield t.attr


def collapse(nest: Nest) -> None:
    """Make one axis of neighbours (a, b) where every access steps over b's whole extent when a advances."""
    fixed = {m.chunk for m in nest.members if m.chunk is not None}
    views: list[dict[Axis, Size]] = []
    for access in nest_accesses(nest):
        views.append(coefficients(access))
        for index in access.indices:
            if index.loose or (index.tile is not None and index.terms):
                fixed |= {a for a, _ in index.terms}
    views += [dict(i.terms) for i in _index_tiles(nest)]
    views += [dict(m.position.terms) for m in nest.members if m.position is not None]
    for axes in [nest.outer, *(p.inner for p in nest.passes)]:
        while (pair := _neighbours(axes, views, fixed)) is not None:
            a, b = pair
            merged = Axis(a.extent * b.extent)
            for view in views:
                view.pop(a, None)
                if b in view:
                    view[merged] = view.pop(b)
            axes[axes.index(b)] = merged
            axes.remove(a)
            for member in nest.members:
                member.rename({a: None, b: merged}, nest.tiles)


def _neighbours(axes: Sequence[Axis], views: Sequence[dict[Axis, Size]], fixed: set[Axis]) -> tuple[Axis, Axis] | None:
    for a in axes:
        for b in axes:
            if a is b or a in fixed or b in fixed:
                continue
            if all(view.get(a, 0) == view.get(b, 0) * b.extent for view in views):
                return a, b
    return None


def best_vector(accesses: Sequence[Access], axes: Sequence[Axis], facts: SizeFacts) -> Axis | None:
    """The axis along which most of the traffic is contiguous; short axes count less."""
    score = dict.fromkeys(axes, 0.0)
    for access in accesses:
        steps = coefficients(access)
        weight = float(facts.value(product(a.extent for a in steps)))
        for axis, c in steps.items():
            if axis in score:
                score[axis] += weight * (1.0 if c == 1 else 0.05)
    if not score:
        return None
    lanes = {a: min(facts.value(a.extent), 16) / 16 for a in axes}
    return max(axes, key=lambda a: ((score[a] + 1e-3) * lanes[a], facts.value(a.extent)))


def order(axes: list[Axis], accesses: Sequence[Access], facts: SizeFacts) -> None:
    """Sort loops outermost first by how far apart their neighbours are, in the largest access."""
    if len(axes) < 2 or not accesses:
        return
    step: dict[Axis, int] = {}
    for access in sorted(accesses, key=lambda a: -facts.value(product(x.extent for x in coefficients(a)))):
        for axis, c in coefficients(access).items():
            step.setdefault(axis, abs(facts.value(c)))
    axes.sort(key=lambda a: -step.get(a, 0))


def choose_across(vector: Axis, others: Sequence[Axis], accesses: Sequence[Access], facts: SizeFacts) -> Axis | None:
    """The axis along which an access is contiguous that is strided along the vectorised one: a transposition."""
    for access in accesses:
        steps = coefficients(access)
        if abs(facts.value(steps.get(vector, 0))) <= 1:
            continue
        for axis, c in steps.items():
            if c == 1 and axis in others and facts.value(axis.extent) >= MIN_PARALLEL:
                return axis
    return None


def group_accesses(group: Pass) -> list[Access]:
    """Every load and store of a pass."""
    found = [a for m in group.members for a in leaves(m.tile)[1]]
    return found + [Access(m.sink.target, m.at) for m in group.members if m.sink.target is not None]


def _choose_vector(nest: Nest, facts: SizeFacts) -> None:
    accesses = list(nest_accesses(nest))
    stores = [Access(m.sink.target, m.at) for m in nest.members if m.sink.target is not None]
    order(nest.outer, [*stores, *accesses], facts)
    for group in nest.passes:
        order(group.inner, group_accesses(group), facts)
    inner = [a for p in nest.passes for a in p.inner]
    best = best_vector([*accesses, *stores], [*nest.outer, *inner], facts)
    if best is not None and best in nest.outer:
        nest.vector = best
        nest.outer.remove(best)
        nest.outer.append(best)
        if not inner:
            nest.across = choose_across(best, nest.outer, accesses, facts)
            if nest.across is not None:
                nest.outer.remove(nest.across)
                nest.outer.insert(len(nest.outer) - 1, nest.across)
        for group in nest.passes:
            if not any(m.sink.is_reduction for m in group.members):
                group.across = choose_across(best, group.inner, group_accesses(group), facts)
        return
    for group in nest.passes:
        if group.inner:
            last = best_vector(group_accesses(group), group.inner, facts)
            assert last is not None
            group.inner.remove(last)
            group.inner.append(last)
