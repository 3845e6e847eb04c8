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

from collections.abc import Sequence
from dataclasses import replace

from akg_dynamo.agents.designer.cuda_bands import bands
from akg_dynamo.agents.designer.cuda_chunks import ONE, Terms
from akg_dynamo.agents.designer.cuda_loops import STEMS, OpenLoop
from akg_dynamo.agents.designer.cuda_schedule import CHUNKS, LAST
from akg_dynamo.agents.designer.cuda_tiles import BandPlan, NestPlan
from akg_dynamo.agents.designer.cuda_trips import TripWriter
from akg_dynamo.agents.designer.declare import Declarations, plus, times
from akg_dynamo.agents.designer.domain import Access, Axis, Index, Tiles
from akg_dynamo.agents.designer.nests import Member, Pass
from akg_dynamo.agents.designer.prims import Prim
from akg_dynamo.agents.designer.schedule import Schedule
from akg_dynamo.agents.designer.sizes import SizeFacts, product
from akg_dynamo.agents.designer.writer import COMBINE, ZERO, Scope, identity
from akg_dynamo.agents.sketch.ast import (
    Assign,
    AxisDecl,
    Cast,
    ConstExpr,
    DType,
    For,
    IndexValue,
    IntExpr,
    Lanes,
    Literal,
    Name,
    Op,
    Reduce,
    Stmt,
    TileExpr,
)
from akg_dynamo.core.types import Design


def emit(schedule: Schedule, plans: Sequence[NestPlan], facts: SizeFacts, name: str) -> Design:
    """The schedule as a sketch called `name`, its nests tiled as planned."""
    declarations = _Declarations(facts)
    counts: dict[Prim, Terms] = {}
    body: list[Stmt] = []
    warps = max(p.warps for p in plans)
    for nest, plan in zip(schedule.nests, plans, strict=True):
        loop = _CudaWriter(declarations, nest, plan, counts).emit()
        hints = (*loop.hints, "once") if plan.once else loop.hints
        if plan.warps != warps:
            hints = (*hints, f"num_warps={plan.warps}")
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


class _CudaWriter(TripWriter):
    """Writes one nest, pass by pass."""

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
        self._begin_trips()
        for group in self._nest.passes:
            self._pass(group)
        self._end_trips()
        for axis in reversed(outer):
            scope = self._scopes.pop()
            stop, step = self._whole.size(axis.extent), self._steps.get(axis)
            loop = For(self._vars[axis], ZERO, stop, step, tuple(scope.body), ("parallel", "grididx"))
            self._scopes[-1].body.append(loop)
        if not outer:
            scope = self._scopes.pop()
            return For(self._whole.fresh("i"), ZERO, ONE, None, tuple(scope.body), ("parallel", "grididx"))
        return loop

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
    # Passes in loops

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
        loop = OpenLoop(group, {a: self._declare_lanes(a, plan, full[a]) for a in group.inner if plan.tiles[a] > 1})
        positions = [m for m in reductions if m.sink.op.startswith("arg")]
        # The extreme itself comes with its position.
        along = {id(m): p for m in reductions for p in positions if p.tile is m.tile and p.sink.op[3:] == m.sink.op}
        reductions = [m for m in reductions if id(m) not in along]
        loop.back = None if positions else self._back(group, plan)
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

    def _body_of(self, loop: OpenLoop, reductions: Sequence[Member], stores: Sequence[Member]) -> None:
        for lanes in loop.lanes.values():
            lanes.live = ""
        loop.inverse = ""
        for member in reductions:
            self._accumulate(member, loop)
        for member in stores:
            self._store(member, self._value(member.tile), member.tile.dtype)

    def _carry(self, member: Member, loop: OpenLoop) -> list[str]:
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
        return [self._alloc(STEMS.get(op, "b"), loop, dtype, identity(op, dtype))]

    def _position_dtype(self, member: Member) -> DType:
        terms = self._facts.most(product(a.extent for a in member.inner))
        return DType.I32 if terms is not None and terms < 1 << 31 else DType.I64

    def _accumulate(self, member: Member, loop: OpenLoop) -> None:
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

    def _finish(self, member: Member, loop: OpenLoop) -> None:
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

    def _tiled(self, group: Pass, members: Sequence[Member], plan: BandPlan) -> None:
        """A pass that stores: its loops are over tiles, and reductions beside the stores meet in every tile."""
        reductions = [m for m in members if m.sink.is_reduction]
        loop = OpenLoop(group, {})
        for member in reductions:
            loop.carried[id(member)] = self._carry(member, loop)
        back = self._back(group, plan)
        self._walked.add(id(group.inner))
        for axis in group.inner:
            self._shifts.pop(axis, None)
            if plan.tiles[axis] > 1:
                self._steps[axis] = self._tile("BK", plan.tiles[axis])
            else:
                self._steps.pop(axis, None)
            self._open(axis, "k" if plan.tiles[axis] > 1 else "r")
            if axis is back:
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
            if axis is back:
                self._add(For(trips[0], ZERO, trips[1], None, tuple(scope.body)))
                continue
            lo, hi = self._bounds.get(axis, (ZERO, self._whole.size(axis.extent)))
            self._add(For(self._vars[axis], lo, hi, self._steps.get(axis), tuple(scope.body)))
        for member in reductions:
            self._finish(member, loop)

    def _accumulate_first(self, member: Member, value: TileExpr, axes: Sequence[Axis], loop: OpenLoop) -> None:
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


def _exceeds(extreme: str, dtype: DType, new: TileExpr, old: TileExpr) -> TileExpr:
    """Whether a later value takes the place of the best so far; NaN is the best there is."""
    if not dtype.is_float:
        return Op("gt" if extreme == "max" else "lt", (new, old))
    worse = Op("le" if extreme == "max" else "ge", (new, old))
    return Op("and", (Op("not", (worse,)), Op("not", (Op("isnan", (old,)),))))


def _last(dtype: DType) -> int:
    return LAST if dtype is DType.I64 else (1 << 31) - 1
