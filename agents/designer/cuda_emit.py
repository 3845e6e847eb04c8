"""A schedule written as a sketch for a GPU: parallel loops over tiles outside, whole or looped axes inside.

Every nest is one parallel loop nest at the top level: a phase. A reduction in a loop keeps one partial result per lane
and is finished after the loop, so that lanes meet once; lanes beyond the end are given the identity.

    axis l = range(0, BN, BN)
    s = alloc([l], f32, init=0.0)
    for b in range(0, (n0 + BN - 1) // BN):
      s = s + load(x[i, l + b*BN : …])
    s1 = reduce_sum(s, l)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from akg_dynamo.agents.designer.cuda_bands import bands, dependent
from akg_dynamo.agents.designer.cuda_schedule import CHUNKS, LAST
from akg_dynamo.agents.designer.cuda_tiles import BandPlan, Chunked, NestPlan
from akg_dynamo.agents.designer.declare import Declarations, minus, plus, times
from akg_dynamo.agents.designer.domain import Access, Axis, Index, Tile, Tiles
from akg_dynamo.agents.designer.nests import Member, Nest, Pass, coefficients
from akg_dynamo.agents.designer.prims import Number, Prim
from akg_dynamo.agents.designer.recurrence import Recurrence
from akg_dynamo.agents.designer.schedule import Schedule
from akg_dynamo.agents.designer.sizes import SizeFacts, product
from akg_dynamo.agents.designer.writer import COMBINE, ZERO, NestWriter, Scope, identity
from akg_dynamo.agents.sketch.ast import (
    Alloc,
    Assign,
    AxisDecl,
    Cast,
    ConstExpr,
    DType,
    For,
    IndexValue,
    IntBin,
    IntConst,
    IntExpr,
    IntVar,
    Lanes,
    Literal,
    Name,
    Op,
    Reduce,
    Stmt,
    TileExpr,
)
from akg_dynamo.core.types import Design

_ONE = IntConst(1)
_ACCUMULATOR = ("fastest", "accumulator")


def emit(schedule: Schedule, plans: Sequence[NestPlan], facts: SizeFacts, name: str) -> Design:
    """The schedule as a sketch called `name`, its nests tiled as planned."""
    declarations = _Declarations(facts)
    counts: dict[Prim, _Terms] = {}
    body: list[Stmt] = []
    warps = max(p.warps for p in plans)
    for nest, plan in zip(schedule.nests, plans, strict=True):
        loop = _CudaWriter(declarations, nest, plan, counts).emit()
        hints = loop.hints if plan.warps == warps else (*loop.hints, f"num_warps={plan.warps}")
        body.append(replace(loop, hints=hints))
    found = declarations.design(name, body)
    launch = ConstExpr("num_warps", warps, tuple(sorted({1, 2, 4, 8, 16, warps})))
    return replace(found, sketch=replace(found.sketch, constexprs=(*found.sketch.constexprs, launch)))


class _Declarations(Declarations):
    """Partial results keep their two dims, so that a tile of them is no gather."""

    def access(self, access: Access, tiles: Tiles) -> tuple[str, list[tuple[Axis | int, Index]]]:
        storage = access.storage
        if storage.name != CHUNKS:
            return super().access(access, tiles)
        key = (storage,)
        if key not in self._decls:
            self._declare(key, storage, 0, storage.shape, storage.strides)
        return self._decls[key].name, list(enumerate(access.indices))


@dataclass(frozen=True)
class _Terms:
    """How many terms each chunk of a partial reduction has: `others` for every element of the chunked axis."""

    chunked: Chunked
    extent: IntExpr
    grain: IntExpr
    others: IntExpr


@dataclass(frozen=True)
class _Together:
    """A reduction that is done in the pass of another."""

    member: Member
    how: Recurrence


@dataclass
class _Lanes:
    """A tiled axis of a loop: its lanes are declared once, outside; `live` is the name of which are inside the axis."""

    axis: Axis
    name: str
    tile: str
    full: bool
    live: str = ""


@dataclass
class _Loop:
    """What is known while the loops of a pass are open.

    count: the number of the iteration, from 1. inverse: the name of its reciprocal. back: from the last tile on.
    """

    group: Pass
    lanes: dict[Axis, _Lanes]
    count: IntExpr | None = None
    inverse: str = ""
    carried: dict[int, list[str]] = field(default_factory=dict)
    back: bool = False


class _CudaWriter(NestWriter):
    """Writes one nest."""

    def __init__(self, whole: Declarations, nest: Nest, plan: NestPlan, counts: dict[Prim, _Terms]) -> None:
        super().__init__(whole, nest)
        self._plan, self._counts = plan, counts
        self._tiles: dict[tuple[str, int], str] = {}
        self._bounds: dict[Axis, tuple[IntExpr, IntExpr]] = {}
        self._trips: dict[Axis, IntExpr] = {}  # of the loop over a chunk, where it is known better than from its bounds
        self._lanes: dict[Axis, _Lanes] = {}
        self._walked: set[int] = set()  # bands that a loop has gone through
        self._body = 0
        self._together: dict[int, list[_Together]] = {}
        self._led: set[int] = set()

    def emit(self) -> For:
        """The nest's one loop."""
        top = Scope(frozenset())
        self._scopes = [top]
        outer = list(self._nest.outer)
        for axis in outer:
            size = self._plan.outer[axis]
            if size > 1:
                self._steps[axis] = self._tile("BM" if axis is not outer[-1] else "BN", size, tunable=True)
            self._open(axis, "i" if size == 1 else "j")
        if not outer:
            self._scopes.append(Scope(frozenset()))
        self._body = len(self._scopes) - 1
        for group in self._nest.passes:
            self._count_uses(group)
        for band in bands(self._nest):
            self._chunk(band, self._plan.band(band[0]))
            if not self._plan.band(band[0]).whole:
                self._join_recurrences(band)
        for group in self._nest.passes:
            self._pass(group)
        for axis in reversed(outer):
            scope = self._scopes.pop()
            stop, step = self._whole.size(axis.extent), self._steps.get(axis)
            loop = For(self._vars[axis], ZERO, stop, step, tuple(scope.body), ("parallel", "grididx"))
            self._scopes[-1].body.append(loop)
        if not outer:
            scope = self._scopes.pop()
            return For(self._whole.fresh("i"), ZERO, _ONE, None, tuple(scope.body), ("parallel", "grididx"))
        return loop

    def _homes(self) -> list[Scope]:
        return self._scopes[self._body :]

    def _tile(self, stem: str, size: int, *, tunable: bool = False) -> str:
        """A tile size by name."""
        name = self._tiles.get((stem, size))
        if name is None:
            space = (size // 2, size, size * 2) if tunable and size > 1 else ()
            name = self._tiles[stem, size] = self._whole.fresh(stem)
            self._whole.constexpr(name, size, space)
        return name

    def _add(self, statement: Stmt) -> None:
        self._scopes[-1].body.append(statement)

    def _let(self, stem: str, value: TileExpr) -> Name:
        name = self._whole.fresh(stem)
        self._add(Assign(name, value))
        return Name(name)

    # ----------------------------------------------------------------------------------------------------------------
    # Chunks

    def _chunk(self, band: Sequence[Pass], plan: BandPlan) -> None:
        """The range of a chunked axis: its grains are dealt out evenly."""
        chunked = plan.chunked
        if chunked is None:
            return
        extent = self._whole.size(chunked.axis.extent)
        tiled = not plan.whole and chunked.grain > 1
        grain: IntExpr = IntVar(self._tile("BL", chunked.grain)) if tiled else IntConst(chunked.grain)
        number = IntVar(self._vars[chunked.chunk])
        self._bounds[chunked.axis] = self._range(chunked, extent, grain, number)
        if chunked.length is not None:
            length, tile = self._whole.size(chunked.length), plan.tiles[chunked.axis]
            if tile == 1 or chunked.length % tile == 0:
                step = IntVar(self._tile("BL", tile)) if tile > 1 else _ONE
                self._trips[chunked.axis] = length if tile == 1 else IntBin("//", length, step)
        elif tiled:
            first, last = (self._share(chunked, extent, grain, n) for n in (number, plus(number, _ONE)))
            self._trips[chunked.axis] = minus(last, first)
        others = self._whole.size(product(a.extent for a in band[0].inner if a is not chunked.axis))
        for group in band:
            for member in group.members:
                if member.chunk is not None:
                    self._counts[member.sink.prim] = _Terms(chunked, extent, grain, others)

    def _range(self, chunked: Chunked, extent: IntExpr, grain: IntExpr, number: IntExpr) -> tuple[IntExpr, IntExpr]:
        if chunked.length is not None:
            length = self._whole.size(chunked.length)
            first = times(number, length)
            return first, plus(first, length)
        lo, hi = (self._border(chunked, extent, grain, n) for n in (number, plus(number, _ONE)))
        return lo, IntBin("min", hi, extent)

    def _border(self, chunked: Chunked, extent: IntExpr, grain: IntExpr, number: IntExpr) -> IntExpr:
        """Where a chunk begins."""
        return times(self._share(chunked, extent, grain, number), grain)

    def _share(self, chunked: Chunked, extent: IntExpr, grain: IntExpr, number: IntExpr) -> IntExpr:
        """How many grains the chunks before one have."""
        grains = extent
        if chunked.grain > 1:
            grains = IntBin("//", plus(extent, minus(grain, _ONE)), grain)
        return IntBin("//", times(number, grains), self._whole.size(chunked.count))

    def _expr(self, tile: Tile, depth: int) -> TileExpr:
        return self._terms(tile) if tile.kind == "count" and self._named(tile) is None else super()._expr(tile, depth)

    def _terms(self, tile: Tile) -> TileExpr:
        """How many terms a chunk has, as a number."""
        terms = self._counts[tile.attr.prim]
        (index,) = tile.attr.indices
        chunked = terms.chunked
        number = self._number(index)
        if chunked.length is not None:
            length = times(self._whole.size(chunked.length), terms.others)
            return Cast(IndexValue(length), tile.dtype)
        if isinstance(number, IndexValue):
            lo, hi = self._range(chunked, terms.extent, terms.grain, number.expr)
            return Cast(IndexValue(times(minus(hi, lo), terms.others)), tile.dtype)
        return Cast(self._lane_terms(terms, number), tile.dtype)

    def _lane_terms(self, terms: _Terms, number: TileExpr) -> TileExpr:
        """The same for a tile of chunk numbers."""
        chunked = terms.chunked
        grains = terms.extent
        if chunked.grain > 1:
            grains = IntBin("//", plus(terms.extent, minus(terms.grain, _ONE)), terms.grain)
        count = IndexValue(self._whole.size(chunked.count))

        def border(n: TileExpr) -> TileExpr:
            share = Op("floordiv", (Op("mul", (n, IndexValue(grains))), count))
            return Op("mul", (share, IndexValue(terms.grain))) if chunked.grain > 1 else share

        end = Op("minimum", (border(Op("add", (number, Literal(1)))), IndexValue(terms.extent)))
        length = self._let("terms", Op("sub", (end, border(number))))
        return Op("mul", (length, IndexValue(terms.others)))

    # ----------------------------------------------------------------------------------------------------------------
    # Passes

    def _pass(self, group: Pass) -> None:
        if not group.inner:
            for member in group.members:
                if not member.sink.is_reduction:
                    self._store(member, self._value(member.tile), member.tile.dtype)
                elif member.sink.op.startswith("arg"):  # of one element each
                    self._finished(member, Literal(0, DType.I64))
                else:
                    self._finished(member, self._value(member.tile))
        elif self._plan.band(group).whole:
            self._straight(group)
        else:
            self._looped(group)

    def _finished(self, member: Member, result: TileExpr) -> None:
        """Names a reduction's result, and stores it if that is wanted."""
        dtype = member.sink.prim.dtype
        got = DType.I64 if member.sink.op.startswith("arg") else member.tile.dtype
        name = self._let(_STEMS.get(member.sink.op, "b"), result if got is dtype else Cast(result, dtype))
        self._results[member.sink.prim] = name.name
        if member.sink.target is not None:
            self._store(member, name, dtype)

    def _straight(self, group: Pass) -> None:
        """A pass over axes that are held whole."""
        plan = self._plan.band(group)
        scope = self._scopes[-1]
        for axis in group.inner:
            if axis not in scope.axes:
                lo, hi = self._bounds.get(axis, (ZERO, self._whole.size(axis.extent)))
                self._vars[axis] = self._whole.fresh("k")
                self._steps[axis] = self._tile("BK", plan.tiles[axis])
                self._add(AxisDecl(self._vars[axis], lo, hi, self._steps[axis]))
                scope.axes |= {axis}
        for member in group.members:
            if not member.sink.is_reduction:
                self._store(member, self._value(member.tile), member.tile.dtype)
                continue
            value = self._spread(member, group.inner)
            if not member.sink.op.startswith("arg"):
                for axis in reversed(group.inner):
                    value = Reduce(member.sink.op, value, self._vars[axis])
                self._finished(member, value)
                continue
            assert member.position is not None
            self._finished(member, self._first(member, value, self._number(member.position), group.inner, DType.I64))

    def _spread(self, member: Member, axes: Sequence[Axis]) -> TileExpr:
        """A member's value, made to vary over every axis it is reduced over."""
        value = self._value(member.tile)
        for axis in axes:
            if axis not in member.tile.axes:
                lane = Op("ge", (Lanes(self._vars[axis]), Literal(0)))
                other = Literal(value.value) if isinstance(value, Literal) else value
                value = Op("where", (lane, value, other))
        return value

    def _first(
        self, member: Member, value: TileExpr, position: TileExpr, axes: Sequence[Axis], dtype: DType
    ) -> TileExpr:
        """The first position among those that hold the extreme."""
        if not axes:
            return position if dtype is DType.I64 else Cast(position, DType.I64)
        if not isinstance(value, Name):
            value = self._let("v", value)
        best: TileExpr = value
        for axis in reversed(axes):
            best = Reduce(member.sink.op[3:], best, self._vars[axis])
        best = self._let("m", best)
        same: TileExpr = Op("eq", (value, best))
        if member.tile.dtype.is_float:
            same = Op("or", (same, Op("and", (Op("isnan", (value,)), Op("isnan", (best,))))))
        found: TileExpr = Op("where", (same, position, Literal(_last(dtype))))
        for axis in reversed(axes):
            found = Reduce("min", found, self._vars[axis])
        return found if dtype is DType.I64 else Cast(found, DType.I64)

    # ----------------------------------------------------------------------------------------------------------------
    # Loops

    def _looped(self, group: Pass) -> None:
        plan = self._plan.band(group)
        members = [m for m in group.members if id(m) not in self._led]
        reductions = [m for m in members if m.sink.is_reduction]
        stores = [m for m in members if not m.sink.is_reduction]
        full = {a: self._is_full(a, plan) for a in group.inner if plan.tiles[a] > 1}
        if not members:
            return
        if stores and not (reductions and all(full.values())):
            self._tiled(group, members, plan)
            return
        loop = _Loop(group, {a: self._declare_lanes(a, plan, full[a]) for a in group.inner if plan.tiles[a] > 1})
        positions = [m for m in reductions if m.sink.op.startswith("arg")]
        # The extreme itself comes with its position.
        along = {id(m): p for m in reductions for p in positions if p.tile is m.tile and p.sink.op[3:] == m.sink.op}
        reductions = [m for m in reductions if id(m) not in along]
        loop.back = id(group.inner) in self._walked and not positions and plan.tiles[group.inner[0]] > 1
        self._walked.add(id(group.inner))
        for member in reductions:
            loop.carried[id(member)] = self._carry(member, loop)
        self._loops(loop, list(group.inner), ZERO, lambda: self._body_of(loop, reductions, stores))
        for member in reductions:
            self._finish(member, loop)
        for member in members:
            if id(member) in along:
                axes = [a for a in group.inner if a in loop.lanes]
                best = Name(loop.carried[id(along[id(member)])][0])
                self._finished(member, self._reduced(member.sink.op, best, axes))

    def _is_full(self, axis: Axis, plan: BandPlan) -> bool:
        """Whether every tile of the axis is, for all sizes this is designed for."""
        chunked = plan.chunked
        if chunked is not None and axis is chunked.axis and chunked.length is not None:
            return chunked.length % plan.tiles[axis] == 0
        return isinstance(axis.extent, int) and axis.extent % plan.tiles[axis] == 0

    def _declare_lanes(self, axis: Axis, plan: BandPlan, full: bool) -> _Lanes:
        found = self._lanes.get(axis)
        if found is None:
            tile = self._tile("BL", plan.tiles[axis])
            found = self._lanes[axis] = _Lanes(axis, self._whole.fresh("l"), tile, full)
            self._scopes[self._body].body.append(AxisDecl(found.name, ZERO, IntVar(tile), tile))
        return found

    def _loops(self, loop: _Loop, axes: list[Axis], before: IntExpr, inside: object) -> None:
        """The loops over `axes`, and what is inside them. before: how many iterations the outer loops have done."""
        if not axes:
            loop.count = plus(before, _ONE)
            assert callable(inside)
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
            number = minus(minus(trips, _ONE), IntVar(var)) if loop.back and before == ZERO else IntVar(var)
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
        return IntBin("//", minus(hi, lo) if full else plus(minus(hi, lo), minus(step, _ONE)), step)

    def _body_of(self, loop: _Loop, reductions: Sequence[Member], stores: Sequence[Member]) -> None:
        for lanes in loop.lanes.values():
            lanes.live = ""
        loop.inverse = ""
        for member in reductions:
            self._accumulate(member, loop)
        for member in stores:
            self._store(member, self._value(member.tile), member.tile.dtype)

    def _live(self, loop: _Loop) -> TileExpr | None:
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

    def _alloc(self, stem: str, loop: _Loop, dtype: DType, init: Number, *, lanes: bool = True) -> str:
        """A tile that the loops update: one element per lane, or one for each result."""
        axes = [self._vars[a] for a in self._nest.outer if a in self._steps]
        if lanes:
            axes += [loop.lanes[a].name for a in loop.group.inner if a in loop.lanes]
        name = self._whole.fresh(stem)
        self._add(Alloc(name, tuple(axes), dtype, init, _ACCUMULATOR))
        return name

    def _carry(self, member: Member, loop: _Loop) -> list[str]:
        op, dtype = member.sink.op, member.tile.dtype
        if op.startswith("arg"):
            best = self._alloc("best", loop, dtype, identity(op[3:], dtype))
            return [best, self._alloc("at", loop, self._position_dtype(member), _last(self._position_dtype(member)))]
        led = self._together.get(id(member), [])
        if led and led[0].how.kind == "exponential":
            most = self._alloc("m", loop, dtype, identity(op, dtype))
            return [most, *(self._alloc("s", loop, t.member.tile.dtype, 0.0) for t in led)]
        if led:
            names = [self._alloc("mean", loop, dtype, 0.0), self._alloc("sq", loop, dtype, 0.0)]
            if self._ragged(loop):
                names.append(self._alloc("seen", loop, dtype, 0.0))
            return names
        return [self._alloc(_STEMS.get(op, "b"), loop, dtype, identity(op, dtype))]

    def _ragged(self, loop: _Loop) -> bool:
        return not all(lanes.full for lanes in loop.lanes.values())

    def _position_dtype(self, member: Member) -> DType:
        terms = self._facts.most(product(a.extent for a in member.inner))
        return DType.I32 if terms is not None and terms < 1 << 31 else DType.I64

    def _accumulate(self, member: Member, loop: _Loop) -> None:
        names, led = loop.carried[id(member)], self._together.get(id(member), [])
        op, dtype = member.sink.op, member.tile.dtype
        value = self._value(member.tile)
        if led and led[0].how.kind == "deviation":
            self._accumulate_deviation(member, value, loop)
            return
        idle = not self._vanishes(member.tile, loop) or op != "sum"
        value = self._masked(value, identity(op[3:] if op.startswith("arg") else op, dtype), dtype, loop, needed=idle)
        if led:
            self._accumulate_exponentials(member, value, names, loop)
        elif op.startswith("arg"):
            assert member.position is not None
            best, at = Name(names[0]), Name(names[1])
            v, where = self._let("v", value), self._number(member.position)
            if self._position_dtype(member) is DType.I32:
                where = Cast(where, DType.I32)
            wins = self._let("wins", _exceeds(op[3:], dtype, v, best))
            self._add(Assign(best.name, Op("where", (wins, v, best))))
            self._add(Assign(at.name, Op("where", (wins, where, at))))
        else:
            self._add(Assign(names[0], Op(COMBINE[op], (Name(names[0]), value))))

    def _masked(self, value: TileExpr, other: Number, dtype: DType, loop: _Loop, *, needed: bool = True) -> TileExpr:
        """The value where there is one, else `other`."""
        live = self._live(loop) if needed else None
        if live is None:
            return value
        if isinstance(value, Literal):
            value = Literal(value.value, dtype)
        return Op("where", (live, value, Literal(other)))

    def _vanishes(self, tile: Tile, loop: _Loop) -> bool:
        """Whether the value is 0 in every lane that is not live, because what is loaded there is.

        Beyond the end of a chunk it is not: the next chunk begins there, unless chunks end with a tile.
        """
        chunked = self._plan.band(loop.group).chunked
        ragged = [a for a, lanes in loop.lanes.items() if not lanes.full]
        if chunked is not None and chunked.axis in ragged and chunked.length is not None:
            return False
        return all(_vanishes(tile, a) for a in ragged)

    def _finish(self, member: Member, loop: _Loop) -> None:
        names, led = loop.carried[id(member)], self._together.get(id(member), [])
        axes = [a for a in loop.group.inner if a in loop.lanes]
        if member.sink.op.startswith("arg"):
            dtype = self._position_dtype(member)
            found = self._let("w", self._first(member, Name(names[0]), Name(names[1]), axes, dtype))
            # No lane has a position where every value is the worst there is: then it is the first.
            none = Op("eq", (found, Literal(_last(dtype))))
            self._finished(member, Op("where", (none, IndexValue(self._start(member)), found)))
        elif led and led[0].how.kind == "exponential":
            most = self._reduced("max", Name(names[0]), axes)
            self._finished(member, most)
            whole = Name(self._results[member.sink.prim])
            share = self._let("share", Op("exp", (Op("sub", (Name(names[0]), whole)),)))
            for together, name in zip(led, names[1:], strict=True):
                total = self._reduced("sum", Op("mul", (Name(name), share)), axes)
                self._finish_exponentials(together, total, whole.name)
        elif led:
            self._finish_deviation(member, led[0].member, names, loop)
        else:
            self._finished(member, self._reduced(member.sink.op, Name(names[0]), axes))

    def _start(self, member: Member) -> IntExpr:
        """The position of the first element."""
        assert member.position is not None
        total: IntExpr = ZERO
        for axis, c in member.position.terms:
            lo, _ = self._bounds.get(axis, (ZERO, ZERO))
            if lo != ZERO:
                total = plus(total, times(lo, self._whole.size(c)))
        return total

    def _reduced(self, op: str, value: TileExpr, axes: Sequence[Axis]) -> TileExpr:
        for axis in reversed(axes):
            value = Reduce(op, value, self._vars[axis])
        return value

    def _tiled(self, group: Pass, members: Sequence[Member], plan: BandPlan) -> None:
        """A pass that stores: its loops are over tiles, and reductions beside the stores meet in every tile."""
        reductions = [m for m in members if m.sink.is_reduction]
        loop = _Loop(group, {})
        for member in reductions:
            loop.carried[id(member)] = self._carry(member, loop)
        back = id(group.inner) in self._walked and plan.tiles[group.inner[0]] > 1
        self._walked.add(id(group.inner))
        for axis in group.inner:
            self._shifts.pop(axis, None)
            if plan.tiles[axis] > 1:
                self._steps[axis] = self._tile("BK", plan.tiles[axis])
            else:
                self._steps.pop(axis, None)
            self._open(axis, "k" if plan.tiles[axis] > 1 else "r")
            if back and axis is group.inner[0]:
                trips = self._backwards(axis, self._is_full(axis, plan))
        tiled = [a for a in group.inner if plan.tiles[a] > 1]
        for member in members:
            if not member.sink.is_reduction:
                self._store(member, self._value(member.tile), member.tile.dtype)
                continue
            value = self._spread(member, tiled)
            if member.sink.op.startswith("arg"):
                self._accumulate_first(member, value, tiled, loop)
            else:
                total = Name(loop.carried[id(member)][0])
                part = self._reduced(member.sink.op, value, tiled)
                self._add(Assign(total.name, Op(COMBINE[member.sink.op], (total, part))))
        for axis in reversed(group.inner):
            scope = self._scopes.pop()
            if back and axis is group.inner[0]:
                self._add(For(trips[0], ZERO, trips[1], None, tuple(scope.body)))
                continue
            lo, hi = self._bounds.get(axis, (ZERO, self._whole.size(axis.extent)))
            self._add(For(self._vars[axis], lo, hi, self._steps.get(axis), tuple(scope.body)))
        for member in reductions:
            self._finish(member, loop)

    def _backwards(self, axis: Axis, full: bool) -> tuple[str, IntExpr]:
        """Tiles from the last to the first: what the pass before read last is still in the cache.

        Gives the name and the end of the loop over them.
        """
        number, step = self._whole.fresh("b"), IntVar(self._steps[axis])
        lo, hi = self._bounds.get(axis, (ZERO, self._whole.size(axis.extent)))
        trips = self._tile_count(axis, lo, hi, step, full)
        first = plus(lo, times(minus(minus(trips, _ONE), IntVar(number)), step))
        last = plus(first, step)
        self._add(AxisDecl(self._vars[axis], first, last if full else IntBin("min", last, hi), self._steps[axis]))
        return number, trips

    def _accumulate_first(self, member: Member, value: TileExpr, axes: Sequence[Axis], loop: _Loop) -> None:
        assert member.position is not None
        best, at = (Name(n) for n in loop.carried[id(member)])
        dtype, extreme = self._position_dtype(member), member.sink.op[3:]
        v = self._let("v", value)
        place = self._first(member, v, self._number(member.position), axes, DType.I64)
        w = self._let("w", place if dtype is DType.I64 else Cast(place, dtype))
        m = self._let("m", self._reduced(extreme, v, axes))
        wins = self._let("wins", _exceeds(extreme, member.tile.dtype, m, best))
        self._add(Assign(best.name, Op("where", (wins, m, best))))
        self._add(Assign(at.name, Op("where", (wins, w, at))))

    # ----------------------------------------------------------------------------------------------------------------
    # Reductions that depend on one another, in one pass

    def _join_recurrences(self, band: Sequence[Pass]) -> None:
        for base, member, how in dependent(band):
            self._together.setdefault(id(base), []).append(_Together(member, how))
            self._led.add(id(member))

    def _accumulate_exponentials(self, member: Member, value: TileExpr, names: Sequence[str], loop: _Loop) -> None:
        """Every lane's maximum so far, and its sum of exponentials: of the two exponents, one is 0.

        Nothing is exchanged between lanes. A maximum of -inf is taken for the least number there is, since -inf from
        -inf is NaN.
        """
        most, dtype = Name(names[0]), member.tile.dtype
        v = value if isinstance(value, Name) else self._let("v", value)
        least = Op("maximum", (most, Literal(_LEAST[dtype])))
        term = self._let("e", Op("exp", (Op("neg", (Op("abs", (Op("sub", (v, least)),)),)),)))
        higher = self._let("higher", Op("gt", (v, least)))
        for name in names[1:]:
            scaled = Op("add", (Op("mul", (Name(name), term)), Literal(1.0)))
            self._add(Assign(name, Op("where", (higher, scaled, Op("add", (Name(name), term))))))
        self._add(Assign(most.name, Op("maximum", (most, v))))

    def _finish_exponentials(self, together: _Together, total: TileExpr, most: str) -> None:
        """Where the maximum is infinite or NaN, what is left of the sum is what is left of the maximum's own term."""
        m = Name(most)
        about = self._value(together.how.about)
        odd = Op("exp", (Op("sub", (m, about)),))
        finite = Op("lt", (Op("abs", (m,)), Literal(float("inf"))))
        self._finished(together.member, Op("where", (finite, total, odd)))

    def _accumulate_deviation(self, member: Member, value: TileExpr, loop: _Loop) -> None:
        """Every lane's mean, and its sum of squared deviations from that (Welford)."""
        names, dtype = loop.carried[id(member)], member.tile.dtype
        mean, squares = Name(names[0]), Name(names[1])
        v = value
        if self._ragged(loop):
            live = self._live(loop)
            assert live is not None
            seen = Name(names[2])
            v = self._let("v", Op("where", (live, value, mean)))
            one = Op("where", (live, Literal(1.0, dtype), Literal(0.0)))
            self._add(Assign(seen.name, Op("add", (seen, one))))
            share: TileExpr = Op("div", (Literal(1.0), Op("maximum", (seen, Literal(1.0)))))
        else:
            v = value if isinstance(value, Name) else self._let("v", value)
            if not loop.inverse:
                assert loop.count is not None
                count = Cast(IndexValue(loop.count), dtype)
                loop.inverse = self._let("inverse", Op("div", (Literal(1.0), count))).name
            share = Name(loop.inverse)
        off = self._let("off", Op("sub", (v, mean)))
        self._add(Assign(mean.name, Op("add", (mean, Op("mul", (off, share))))))
        self._add(Assign(squares.name, Op("add", (squares, Op("mul", (off, Op("sub", (v, mean))))))))

    def _finish_deviation(self, base: Member, member: Member, names: Sequence[str], loop: _Loop) -> None:
        """The lanes' means and squares brought to the common mean."""
        axes = [a for a in loop.group.inner if a in loop.lanes]
        mean, squares = Name(names[0]), Name(names[1])
        terms: TileExpr
        if len(names) > 2:
            terms = Name(names[2])
            whole = self._let("terms", self._reduced("sum", terms, axes))
        else:
            lanes: IntExpr = _ONE
            trips: IntExpr = _ONE
            for axis in loop.group.inner:
                lo, hi = self._bounds.get(axis, (ZERO, self._whole.size(axis.extent)))
                found = loop.lanes.get(axis)
                if found is not None:
                    lanes = times(lanes, IntVar(found.tile))
                    trips = times(trips, self._tile_count(axis, lo, hi, IntVar(found.tile), found.full))
                else:
                    trips = times(trips, self._trips.get(axis, minus(hi, lo)))
            terms = self._let("terms", Cast(IndexValue(trips), base.tile.dtype))
            whole = self._let("terms", Cast(IndexValue(times(trips, lanes)), base.tile.dtype))
        total = self._let("s", self._reduced("sum", Op("mul", (mean, terms)), axes))
        off = self._let("off", Op("sub", (mean, Op("div", (total, whole)))))
        apart = Op("add", (squares, Op("mul", (terms, Op("mul", (off, off))))))
        self._finished(base, total)
        self._finished(member, self._reduced("sum", apart, axes))


_STEMS: Mapping[str, str] = {"sum": "s", "max": "m", "min": "m", "prod": "p", "argmax": "at", "argmin": "at"}
_LEAST: Mapping[DType, float] = {DType.F32: -3.4028234663852886e38, DType.F64: -1.7976931348623157e308}
_KEEP_ZERO = frozenset(["neg", "abs", "sqrt", "sin", "tan", "tanh", "asin", "atan", "sinh", "asinh", "expm1", "log1p"])


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


def _exceeds(extreme: str, dtype: DType, new: TileExpr, old: TileExpr) -> TileExpr:
    """Whether a later value takes the place of the best so far; NaN is the best there is."""
    if not dtype.is_float:
        return Op("gt" if extreme == "max" else "lt", (new, old))
    worse = Op("le" if extreme == "max" else "ge", (new, old))
    return Op("and", (Op("not", (worse,)), Op("not", (Op("isnan", (old,)),))))


def _last(dtype: DType) -> int:
    return LAST if dtype is DType.I64 else (1 << 31) - 1
