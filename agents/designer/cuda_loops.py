"""Loops over tiles of axes that are reduced: their lanes, which of them are live, and what the loops carry.

A reduction in a loop keeps one partial result per lane and is finished after the loop, so that lanes meet once; lanes
beyond the end are given the identity.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from akg_dynamo.agents.designer.cuda_chunks import ONE, ChunkWriter, Terms
from akg_dynamo.agents.designer.cuda_tiles import BandPlan, NestPlan
from akg_dynamo.agents.designer.declare import Declarations, minus, plus, times
from akg_dynamo.agents.designer.domain import Access, Axis, Tile
from akg_dynamo.agents.designer.nests import Member, Nest, Pass, coefficients
from akg_dynamo.agents.designer.prims import Number, Prim
from akg_dynamo.agents.designer.writer import ZERO, Scope
from akg_dynamo.agents.sketch.ast import (
    Alloc,
    AxisDecl,
    Cast,
    DType,
    For,
    IndexValue,
    IntBin,
    IntExpr,
    IntVar,
    Lanes,
    Literal,
    Name,
    Op,
    Reduce,
    TileExpr,
)

STEMS: Mapping[str, str] = {"sum": "s", "max": "m", "min": "m", "prod": "p", "argmax": "at", "argmin": "at"}
"""How the results of reductions are named."""
_ACCUMULATOR = ("fastest", "accumulator")
_KEEP_ZERO = frozenset(["neg", "abs", "sqrt", "sin", "tan", "tanh", "asin", "atan", "sinh", "asinh", "expm1", "log1p"])


@dataclass
class LoopLanes:
    """A tiled axis of a loop: its lanes are declared once, outside; `live` is the name of which are inside the axis."""

    axis: Axis
    name: str
    tile: str
    full: bool
    live: str = ""


@dataclass
class OpenLoop:
    """What is known while the loops of a pass are open.

    count: the number of the iteration, from 1. inverse: the name of its reciprocal. back: the axis
    whose tiles come from the last one on.
    """

    group: Pass
    lanes: dict[Axis, LoopLanes]
    count: IntExpr | None = None
    inverse: str = ""
    carried: dict[int, list[str]] = field(default_factory=dict)
    back: Axis | None = None


class LoopWriter(ChunkWriter):
    """Writes the loops of a nest's passes."""

    def __init__(self, whole: Declarations, nest: Nest, plan: NestPlan, counts: dict[Prim, Terms]) -> None:
        super().__init__(whole, nest, plan, counts)
        self._lanes: dict[Axis, LoopLanes] = {}
        self._walked: set[int] = set()  # bands that a loop has gone through
        self._body = 0

    def _homes(self) -> list[Scope]:
        return self._scopes[self._body :]

    def _is_full(self, axis: Axis, plan: BandPlan) -> bool:
        """Whether every tile of the axis is, for all sizes this is designed for."""
        chunked = plan.chunked
        if chunked is not None and axis is chunked.axis and chunked.length is not None:
            return chunked.length % plan.tiles[axis] == 0
        return isinstance(axis.extent, int) and axis.extent % plan.tiles[axis] == 0

    def _declare_lanes(self, axis: Axis, plan: BandPlan, full: bool) -> LoopLanes:
        found = self._lanes.get(axis)
        if found is None:
            tile = self._tile("BL", plan.tiles[axis])
            found = self._lanes[axis] = LoopLanes(axis, self._whole.fresh("l"), tile, full)
            self._scopes[self._body].body.append(AxisDecl(found.name, ZERO, IntVar(tile), tile))
        return found

    def _loops(self, loop: OpenLoop, axes: list[Axis], before: IntExpr, inside: Callable[[], None]) -> None:
        """The loops over `axes`, and what is inside them. before: how many iterations the outer loops have done."""
        if not axes:
            loop.count = plus(before, ONE)
            inside()
            return
        axis, rest = axes[0], axes[1:]
        lo, hi = self._bounds.get(axis, (ZERO, self._whole.size(axis.extent)))
        lanes = loop.lanes.get(axis)
        if lanes is None:
            self._open(axis, "r")
            var = self._vars[axis]
            trips, done = self._trips.get(axis, minus(hi, lo)), minus(IntVar(var), lo)
            start, stop = lo, hi
        else:
            step = IntVar(lanes.tile)
            var = self._whole.fresh("b")
            trips = self._tile_count(axis, lo, hi, step, lanes.full)
            done, start, stop = IntVar(var), ZERO, trips
            self._vars[axis], self._steps[axis] = lanes.name, lanes.tile
            number = minus(minus(trips, ONE), IntVar(var)) if loop.back is axis else IntVar(var)
            self._shifts[axis] = plus(lo, times(number, step))
            self._scopes.append(Scope(self._scopes[-1].axes | {axis}))
        self._loops(loop, rest, plus(times(before, trips), done) if before != ZERO else done, inside)
        scope = self._scopes.pop()
        self._shifts.pop(axis, None)
        self._add(For(var, start, stop, None, tuple(scope.body)))

    def _tile_count(self, axis: Axis, lo: IntExpr, hi: IntExpr, step: IntExpr, full: bool) -> IntExpr:
        """How many tiles cover an axis."""
        if axis in self._trips:
            return self._trips[axis]
        return IntBin("//", minus(hi, lo) if full else plus(minus(hi, lo), minus(step, ONE)), step)

    def _back(self, group: Pass, plan: BandPlan) -> Axis | None:
        """The axis of a pass's outermost loop over tiles, where another pass has gone through them."""
        if id(group.inner) not in self._walked:
            return None
        loops = (a for a in group.inner if not isinstance(a.extent, int) or a.extent > plan.tiles[a])
        first = next(loops, None)
        return first if first is not None and plan.tiles[first] > 1 else None

    def _backwards(self, axis: Axis, full: bool) -> tuple[str, IntExpr]:
        """Tiles from the last to the first: what the pass before read last is still in the cache.

        Gives the name and the end of the loop over them.
        """
        number, step = self._whole.fresh("b"), IntVar(self._steps[axis])
        lo, hi = self._bounds.get(axis, (ZERO, self._whole.size(axis.extent)))
        trips = self._tile_count(axis, lo, hi, step, full)
        first = plus(lo, times(minus(minus(trips, ONE), IntVar(number)), step))
        last = plus(first, step)
        self._add(AxisDecl(self._vars[axis], first, last if full else IntBin("min", last, hi), self._steps[axis]))
        return number, trips

    def _live(self, loop: OpenLoop) -> TileExpr | None:
        """Which lanes are inside all axes; None when all are."""
        found: TileExpr | None = None
        for lanes in loop.lanes.values():
            if lanes.full:
                continue
            if not lanes.live:
                _, hi = self._bounds.get(lanes.axis, (ZERO, self._whole.size(lanes.axis.extent)))
                at = Op("add", (Lanes(lanes.name), IndexValue(self._shifts[lanes.axis])))
                lanes.live = self._let("live", Op("lt", (at, IndexValue(hi)))).name
            found = Name(lanes.live) if found is None else Op("and", (found, Name(lanes.live)))
        return found

    def _masked(self, value: TileExpr, other: Number, dtype: DType, loop: OpenLoop, *, needed: bool = True) -> TileExpr:
        """The value where there is one, else `other`."""
        live = self._live(loop) if needed else None
        if live is None:
            return value
        if isinstance(value, Literal):
            value = Literal(value.value, dtype)
        return Op("where", (live, value, Literal(other)))

    def _vanishes(self, tile: Tile, loop: OpenLoop) -> bool:
        """Whether the value is 0 in every lane that is not live, because what is loaded there is.

        Beyond the end of a chunk it is not: the next chunk begins there, unless chunks end with a tile.
        """
        chunked = self._plan.band(loop.group).chunked
        ragged = [a for a, lanes in loop.lanes.items() if not lanes.full]
        if chunked is not None and chunked.axis in ragged and chunked.length is not None:
            return False
        return all(_vanishes(tile, a) for a in ragged)

    def _ragged(self, loop: OpenLoop) -> bool:
        return not all(lanes.full for lanes in loop.lanes.values())

    def _alloc(self, stem: str, loop: OpenLoop, dtype: DType, init: Number, *, lanes: bool = True) -> str:
        """A tile that the loops update: one element per lane, or one for each result."""
        axes = [self._vars[a] for a in self._nest.outer if a in self._steps]
        if lanes:
            axes += [loop.lanes[a].name for a in loop.group.inner if a in loop.lanes]
        name = self._whole.fresh(stem)
        self._add(Alloc(name, tuple(axes), dtype, init, _ACCUMULATOR))
        return name

    def _reduced(self, op: str, value: TileExpr, axes: Sequence[Axis]) -> TileExpr:
        for axis in reversed(axes):
            value = Reduce(op, value, self._vars[axis])
        return value

    def _finished(self, member: Member, result: TileExpr) -> None:
        """Names a reduction's result, and stores it if that is wanted."""
        dtype = member.sink.prim.dtype
        got = DType.I64 if member.sink.op.startswith("arg") else member.tile.dtype
        name = self._let(STEMS.get(member.sink.op, "b"), result if got is dtype else Cast(result, dtype))
        self._results[member.sink.prim] = name.name
        if member.sink.target is not None:
            self._store(member, name, dtype)


def _vanishes(tile: Tile, axis: Axis) -> bool:
    """Whether the value is 0 where `axis` runs over its end and loads give 0."""
    if tile.kind == "load":
        access: Access = tile.attr
        plain = all(i.tile is None and not i.loose for i in access.indices)
        return plain and access.storage.kind == "in" and coefficients(access).get(axis, 0) != 0
    if tile.kind == "cast":
        return tile.dtype is not DType.BOOL and _vanishes(tile.args[0], axis)
    if tile.kind != "op":
        return False
    if tile.attr in _KEEP_ZERO:
        return _vanishes(tile.args[0], axis)
    if tile.attr == "mul":
        sides = [_vanishes(a, axis) or _is_finite_number(a) for a in tile.args]
        return all(sides) and any(_vanishes(a, axis) for a in tile.args)
    return tile.attr in ("add", "sub", "maximum", "minimum") and all(_vanishes(a, axis) for a in tile.args)


def _is_finite_number(tile: Tile) -> bool:
    return tile.kind == "const" and abs(tile.attr) < float("inf")
