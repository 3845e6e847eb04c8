"""Which loops over lanes a segment's work runs in, and which values are kept in memory between them.

Values are computed where they are needed, so only *sinks* are placed: stores, updates of variables, reductions, scans,
and values worth keeping because several loops need them and computing them again would cost more than a trip to L1.
Sinks over the same axes share one loop nest (a `Leaf`); nests share their outer loops as long as no result crosses.
The vector axis is innermost everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from akg_dynamo.agents.lowering import cpp_ops
from akg_dynamo.agents.lowering.index import is_const, strides_of
from akg_dynamo.agents.lowering.ir import (
    Access,
    Axis,
    Block,
    IndexGather,
    IndexSpan,
    Loop,
    Program,
    Segment,
    SetVariable,
    StoreTo,
    Value,
    axis_key,
)
from akg_dynamo.agents.sketch.ast import DType

Sink: TypeAlias = "StoreTo | SetVariable | Value"
_WORTH_KEEPING = 6  # cheaper values are computed again
_COMPUTED_APART = ("reduce", "scan")


@dataclass(eq=False)
class Leaf:
    """One innermost loop: its path of axes, outermost first, and the sinks it serves."""

    path: tuple[Axis, ...]
    sinks: list[Sink]
    parents: tuple[Nest, ...] = ()


@dataclass(eq=False)
class Nest:
    """A loop over the lanes of one axis that its children share."""

    axis: Axis
    children: list[Nest | Leaf] = field(default_factory=list)

    def leaves(self) -> Iterator[Leaf]:
        """Every leaf below, in order."""
        for child in self.children:
            if isinstance(child, Leaf):
                yield child
            else:
                yield from child.leaves()


@dataclass
class Plan:
    """A segment's loops. `vector`: the axis whose lanes are a vector's."""

    children: list[Nest | Leaf]
    vector: Axis | None
    leaves: list[Leaf]
    place: dict[Value, Leaf]


class Schedule:
    """Plans for every segment of a program."""

    def __init__(self, program: Program) -> None:
        self.kept: set[Value] = set()
        self.outside: set[Value] = set()  # used by another segment than the one that computes them
        self.mutable = set(_stored(program.block))
        self._costs: dict[Value, int] = {}
        self._pinned: dict[Value, bool] = {}
        segments = list(_segments(program.block))
        for segment in segments:
            for sink in segment.sinks:
                for value in operands(sink):
                    self._cross(segment, value, set())
        self.plans = {segment: self._plan(segment) for segment in segments}
        self.lane_bytes = self._usual_lane_bytes()

    def located(self, value: Value) -> bool:
        """Whether it is stored where it is computed, rather than computed again by each user."""
        return value.kind in _COMPUTED_APART or value in self.kept

    # -- values that cross segments

    def _cross(self, segment: Segment, value: Value, seen: set[tuple[Segment, Value]]) -> None:
        if (segment, value) in seen:
            return
        seen.add((segment, value))
        if value.home is not segment and value.kind not in ("literal", "lanes"):
            if not self.located(value) and (self.pinned(value) or not value.axes or self.cost(value) >= _WORTH_KEEPING):
                self.kept.add(value)
            if self.located(value):
                self.outside.add(value)
                assert value.home is not None
                for operand in value.args:
                    self._cross(value.home, operand, seen)
                return
        for operand in value.args:
            self._cross(segment, operand, seen)

    def pinned(self, value: Value) -> bool:
        """Whether computing it later might give something else: it reads a variable, or memory that is written."""
        if value not in self._pinned:
            if value.kind == "variable" or (value.access is not None and value.access.tensor.name in self.mutable):
                self._pinned[value] = True
            else:
                self._pinned[value] = any(not self.located(a) and self.pinned(a) for a in value.args)
        return self._pinned[value]

    def cost(self, value: Value) -> int:
        """Roughly how many simple instructions it takes to compute it again."""
        if value.kind in ("literal", "lanes", "index", "variable") or value.kind in _COMPUTED_APART:
            return 0
        if value not in self._costs:
            own = 1
            if value.kind == "op":
                own = cpp_ops.cost(value.name, value.dtype)
            elif value.kind == "load" and value.args:
                own = 8
            self._costs[value] = own + sum(0 if a in self.kept else self.cost(a) for a in value.args)
        return self._costs[value]

    # -- one segment

    def _plan(self, segment: Segment) -> Plan:
        while True:
            vector = self._vector_axis(segment)
            sinks = self._sinks(segment)
            leaves, place = self._group(sinks, vector)
            children = _tree(leaves, vector, 0, ())
            more = self._worth_keeping(segment, leaves, place)
            if not more:
                return Plan(children, vector, leaves, place)
            self.kept |= more

    def _sinks(self, segment: Segment) -> list[Sink]:
        kept = [v for v in self.kept if v.home is segment and v.kind not in _COMPUTED_APART]
        everything: list[Sink] = [*segment.sinks, *kept]
        # A store made when there were n values comes after value n - 1. Updates of variables come last: what reads a
        # variable reads its old value, and large tiles go first because small ones (a row's maximum) feed them.
        updates = [s for s in everything if isinstance(s, SetVariable)]
        others = [s for s in everything if not isinstance(s, SetVariable)]
        others.sort(key=lambda s: s.id - 0.5 if isinstance(s, StoreTo) else s.id)
        return [*others, *sorted(updates, key=lambda s: -len(s.axes))]

    def closure(self, sink: Sink) -> Iterator[Value]:
        """The values a sink computes on the way, and the located ones it reads (whose operands are not followed)."""
        seen: set[Value] = set()
        todo = list(operands(sink))
        while todo:
            value = todo.pop()
            if value in seen:
                continue
            seen.add(value)
            yield value
            if not self.located(value):
                todo.extend(value.args)

    def _vector_axis(self, segment: Segment) -> Axis | None:
        scores: dict[Axis, float] = {}
        for sink in segment.sinks:
            for axis in iteration_axes(sink):
                scores.setdefault(axis, 0.0)
            accesses = [(sink.access, 1.5)] if isinstance(sink, StoreTo) else []
            accesses += [(v.access, 1.0) for v in self.closure(sink) if v.access is not None]
            for access, weight in accesses:
                for axis in scores:
                    step = axis_step(access, axis)
                    scores[axis] += weight * (4 if step == "unit" else -1 if step == "strided" else 0)
        if not scores:
            return None
        return max(scores, key=lambda a: (scores[a], a.order))

    def _usual_lane_bytes(self) -> int:
        """What most innermost loops have, and of several the narrowest."""
        leaves = [(leaf, p.vector) for p in self.plans.values() for leaf in p.leaves if p.vector in leaf.path]
        widths = [self.lane_bytes_of(leaf, vector) for leaf, vector in leaves]
        return min(set(widths), key=lambda w: (-widths.count(w), w), default=1)

    def lane_bytes_of(self, leaf: Leaf, vector: Axis | None) -> int:
        """Of the widest value that the leaf holds in vectors: it decides how many lanes its vectors have."""
        held: list[DType] = []
        widest, gathers = 1, False
        counted = self.counted(leaf, vector)
        for sink in leaf.sinks:
            if vector in sink.axes:
                held.append(_written(sink))
            for value in self.closure(sink):
                if vector in value.axes and value not in counted:
                    held.append(value.dtype)
                    if value.kind == "op":
                        widest = max(widest, cpp_ops.working_bytes(value.name, value.dtype, value.args[-1].data))
                if value.kind == "load":
                    gathers |= any(vector in a.axes for a in value.args[: len(value.args) - value.masked])
        widest = max(widest, *(cpp_ops.held_bytes(d) for d in held if d is not DType.BOOL), 1)
        if any(isinstance(s, Value) and s.name in ("argmax", "argmin") for s in leaf.sinks):
            widest = max(widest, 4)  # positions
        if gathers:
            widest = 8  # addresses
        return widest

    def counted(self, leaf: Leaf, vector: Axis | None) -> set[Value]:
        """Lane numbers (and sums with them) that are only compared with what is the same in all lanes.

        They need no vectors of i64: the comparison's right side is a lane of this very vector, or beyond its ends.
        """
        values = sorted({v for sink in leaf.sinks for v in self.closure(sink)}, key=lambda v: -v.id)
        sunk = {v for sink in leaf.sinks for v in operands(sink)}
        found = {v for v in values if v not in sunk and not self.located(v) and _counts(v, vector)}
        for value in values:  # users before what they use
            if value not in found and not (value.name in cpp_ops.COMPARISONS and _one_varies(value, vector)):
                found.difference_update(value.args)
        return found

    def _group(self, sinks: list[Sink], vector: Axis | None) -> tuple[list[Leaf], dict[Value, Leaf]]:
        leaves: list[Leaf] = []
        place: dict[Value, Leaf] = {}
        at: dict[Leaf, int] = {}
        for sink in sinks:
            path = path_of(sink, vector)
            low = 0
            for value in self.closure(sink):
                if value in place and value is not sink:
                    where = at[place[value]]
                    lanewise = value.kind != "reduce" and place[value].path == path
                    low = max(low, where if lanewise else where + 1)
            if isinstance(sink, SetVariable) or (isinstance(sink, StoreTo) and sink.last):
                low = max(low, len(leaves) - 1)
            for index in range(low, len(leaves)):
                if leaves[index].path == path:
                    leaf = leaves[index]
                    leaf.sinks.append(sink)
                    break
            else:
                leaf = Leaf(path, [sink])
                at[leaf] = len(leaves)
                leaves.append(leaf)
            if isinstance(sink, Value):
                place[sink] = leaf
        return leaves, place

    def _worth_keeping(self, segment: Segment, leaves: list[Leaf], place: dict[Value, Leaf]) -> set[Value]:
        found: set[Value] = set()
        used: dict[Value, list[Leaf]] = {}
        for leaf in leaves:
            for sink in leaf.sinks:
                for value in self.closure(sink):
                    if value in place or value.home is None or not value.axes or self.located(value):
                        continue
                    where = used.setdefault(value, [])
                    if leaf not in where:
                        where.append(leaf)
        updated = self._updated_early(leaves)
        for value, where in used.items():
            if value.kind in ("literal", "lanes", "index"):
                continue
            stale = value.kind == "variable" and any(
                value.data is v and leaves.index(w) > i for v, i in updated for w in where
            )
            if stale or (
                self.cost(value) >= _WORTH_KEEPING
                and (
                    (len(where) > 1 and not _bound_above(value, where))
                    or any(_redundant(value, leaf.path) for leaf in where)
                )
            ):
                found.add(value)
        for value in list(found):  # keep what is nearest to its users; what only feeds it need not be kept
            feeds = [v for v in found if v is not value and value in _below(v)]
            if (
                feeds
                and value.kind != "variable"
                and all(self._only_through(value, feeds, leaf) for leaf in used[value])
            ):
                found.discard(value)
        for value in found:
            if value.home is not segment:  # computed again here, for this segment alone
                value.home = segment
        return found

    def _only_through(self, value: Value, feeds: list[Value], leaf: Leaf) -> bool:
        for sink in leaf.sinks:
            todo = list(operands(sink))
            seen: set[Value] = set()
            while todo:
                v = todo.pop()
                if v in seen or v in feeds:
                    continue
                seen.add(v)
                if v is value:
                    return False
                if not self.located(v):
                    todo.extend(v.args)
        return True

    @staticmethod
    def _updated_early(leaves: list[Leaf]) -> list[tuple[object, int]]:
        return [(s.variable, i) for i, leaf in enumerate(leaves) for s in leaf.sinks if isinstance(s, SetVariable)]


def operands(sink: Sink) -> tuple[Value, ...]:
    """What a sink needs computed."""
    if isinstance(sink, Value):
        return sink.args
    if isinstance(sink, StoreTo):
        return (sink.value, *sink.access.gathers)
    return (sink.value,)


def iteration_axes(sink: Sink) -> tuple[Axis, ...]:
    """Every axis its loops run over."""
    if isinstance(sink, Value) and sink.kind == "reduce":
        return sink.args[0].axes
    return sink.axes


def _counts(value: Value, vector: Axis | None) -> bool:
    """Whether neighbouring lanes hold consecutive numbers."""
    if value.kind == "op" and value.name in ("add", "sub") and value.dtype is DType.I64:
        a, b = value.args
        return (_counts(a, vector) and _is_position(b, vector)) or (
            value.name == "add" and _is_position(a, vector) and _counts(b, vector)
        )
    return value.kind == "lanes" and value.axis is vector


def _is_position(value: Value, vector: Axis | None) -> bool:
    """Whether it is the same in all lanes, and so small that no sum with lane numbers wraps around."""
    if value.kind == "literal":
        return isinstance(value.data, int) and abs(value.data) < 1 << 60
    if value.kind == "op" and value.name in ("add", "sub"):
        return all(_is_position(a, vector) for a in value.args)
    return value.kind == "index" or (value.kind == "lanes" and value.axis is not vector)


def _one_varies(value: Value, vector: Axis | None) -> bool:
    return sum(vector in a.axes for a in value.args) == 1


def _written(sink: Sink) -> DType:
    if isinstance(sink, StoreTo):
        return sink.access.tensor.dtype
    return sink.variable.dtype if isinstance(sink, SetVariable) else sink.dtype


def crossed_axis(sink: Sink) -> Axis | None:
    """The axis along which lanes depend on one another."""
    return sink.axis if isinstance(sink, Value) and sink.kind in _COMPUTED_APART else None


def path_of(sink: Sink, vector: Axis | None) -> tuple[Axis, ...]:
    """Loop order: independent axes, then the one that is reduced or scanned, then the vector axis."""
    axes = iteration_axes(sink)
    crossed = crossed_axis(sink)
    rank = {a: (a is vector, a is crossed, axis_key(a)) for a in axes}
    return tuple(sorted(axes, key=rank.__getitem__))


def axis_step(access: Access, axis: Axis) -> str:
    """How far apart in memory the axis's lanes are: "none", "unit", "strided" (also a gather)."""
    found = "none"
    for index, stride in zip(access.indices, strides_of(access.tensor), strict=True):
        if isinstance(index, IndexSpan) and index.axis is axis and not is_const(stride, 0):
            found = "unit" if is_const(stride, 1) and found == "none" else "strided"
        if isinstance(index, IndexGather) and axis in index.tile.axes:
            found = "strided"
    return found


def _crosses(leaf: Leaf, axis: Axis) -> bool:
    return any(crossed_axis(s) is axis for s in leaf.sinks)


def _tree(leaves: list[Leaf], vector: Axis | None, depth: int, parents: tuple[Nest, ...]) -> list[Nest | Leaf]:
    out: list[Nest | Leaf] = []
    i = 0
    while i < len(leaves):
        leaf = leaves[i]
        if len(leaf.path) == depth or (len(leaf.path) == depth + 1 and leaf.path[depth] is vector):
            leaf.parents = parents
            out.append(leaf)
            i += 1
            continue
        axis = leaf.path[depth]
        nest = Nest(axis)
        j = i + 1
        if not _crosses(leaf, axis):
            while (
                j < len(leaves)
                and len(leaves[j].path) > depth
                and leaves[j].path[depth] is axis
                and not _crosses(leaves[j], axis)
            ):
                j += 1
        nest.children = _tree(leaves[i:j], vector, depth + 1, (*parents, nest))
        out.append(nest)
        i = j
    return out


def shared_parents(leaves: list[Leaf]) -> tuple[Nest, ...]:
    """The loops that all of them are in."""
    common = leaves[0].parents
    for leaf in leaves[1:]:
        n = 0
        while n < min(len(common), len(leaf.parents)) and common[n] is leaf.parents[n]:
            n += 1
        common = common[:n]
    return common


def _bound_above(value: Value, leaves: list[Leaf]) -> bool:
    bound = {nest.axis for nest in shared_parents(leaves)}
    return set(value.axes) <= bound


def _redundant(value: Value, path: tuple[Axis, ...]) -> bool:
    last = max((path.index(a) for a in value.axes if a in path), default=-1)
    return any(a not in value.axes for a in path[: last + 1])


def _below(value: Value) -> set[Value]:
    seen: set[Value] = set()
    todo = list(value.args)
    while todo:
        v = todo.pop()
        if v not in seen:
            seen.add(v)
            todo.extend(v.args)
    return seen


def _segments(block: Block) -> Iterator[Segment]:
    for item in block.items:
        if isinstance(item, Segment):
            yield item
        else:
            yield from _segments(item.block)


def _stored(block: Block) -> Iterator[str]:
    for item in block.items:
        if isinstance(item, Loop):
            yield from _stored(item.block)
        else:
            yield from item.stores
