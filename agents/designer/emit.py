"""A schedule written as a sketch: its loops, and the tiles in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from akg_dynamo.agents.designer.declare import Declarations, minus, plus, times
from akg_dynamo.agents.designer.domain import Axis, Index
from akg_dynamo.agents.designer.nests import COLUMN_TILE, Member, Pass
from akg_dynamo.agents.designer.prims import Number
from akg_dynamo.agents.designer.rows import hold_rows
from akg_dynamo.agents.designer.schedule import Schedule
from akg_dynamo.agents.designer.sizes import Size, SizeFacts, floor_div, product
from akg_dynamo.agents.designer.writer import COMBINE, NestWriter, Scope, beats, identity, surpasses
from akg_dynamo.agents.sketch.ast import (
    Alloc,
    Assign,
    AxisDecl,
    Cast,
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

ROW_TILE = 1024
SQUARE_TILE = 32
_TILES = {
    "BN": (ROW_TILE, (256, 512, 1024, 2048)),
    "BC": (COLUMN_TILE, (64, 128, 256, 512)),
    "BT": (SQUARE_TILE, (16, 32, 64)),
    # What is turned, across and along what is stored: long runs in both memories, and a buffer that fits L1.
    "BI": (64, (16, 32, 64)),
    "BJ": (128, (32, 64, 128, 256)),
}
_SUM_BLOCK = 16  # how many terms an f32 accumulator takes before it is added to a wider one


@dataclass(frozen=True)
class _Block:
    """A scalar loop is cut into blocks, of `size` trips each.

    strip: a loop inside it that is short as a rule, with how many of its trips there may be to one of the blocks'. Its
    strips are the outermost loop of the pass, which then has one trip as a rule.
    """

    axis: Axis
    size: IntExpr
    strip: tuple[Axis, int] | None = None


@dataclass(frozen=True)
class _Walk:
    """What stays the same, or nearly so, while the loops of a pass are written."""

    group: Pass
    vector: Axis | None
    bounds: dict[Axis, tuple[IntExpr, IntExpr]]
    block: _Block | None
    accumulators: dict[int, list[str]]


def emit(schedule: Schedule, facts: SizeFacts, name: str) -> Design:
    """The schedule as a sketch called `name`, with its bindings."""
    declarations = Declarations(facts)
    body: list[Stmt] = []
    for nest in schedule.nests:
        body += _NestEmitter(declarations, nest).emit()
    return declarations.design(name, body)


class _NestEmitter(NestWriter):
    """Writes one nest."""

    def emit(self) -> list[Stmt]:
        """The nest's statements."""
        top = Scope(frozenset())
        self._scopes = [top]
        self._row = hold_rows(self._nest)
        headers: list[tuple[Axis, bool]] = []
        for axis in self._nest.outer:
            tiled = axis in (self._nest.vector, self._nest.across)
            if tiled:
                only = not any(p.inner for p in self._nest.passes)
                name = "BN" if only else "BC"
                if self._nest.across is not None:
                    name = "BI" if axis is self._nest.across else "BJ"
                self._steps[axis] = self._tile(name)
            self._open(axis, "i" if not tiled else "j")
            headers.append((axis, True))
        if self._row is not None:
            self._declare_row(self._row)
            for group in self._nest.passes:
                self._count_uses(group)
        for group in self._nest.passes:
            self._pass(group)
        for axis, parallel in reversed(headers):
            self._close(axis, parallel)
        return top.body

    def _declare_row(self, row: Axis) -> None:
        assert isinstance(row.extent, int)
        size = 1 << max(row.extent - 1, 0).bit_length()
        self._vars[row] = self._whole.fresh("k")
        self._steps[row] = self._whole.constexpr(f"BR{size}", size, ())
        scope = self._scopes[-1]
        scope.body.append(AxisDecl(self._vars[row], IntConst(0), self._whole.size(row.extent), self._steps[row]))
        scope.axes |= {row}

    def _tile(self, name: str) -> str:
        size, space = _TILES[name]
        return self._whole.constexpr(name, size, space)

    def _close(self, axis: Axis, parallel: bool, bounds: tuple[IntExpr, IntExpr] | None = None) -> None:
        scope = self._scopes.pop()
        lo, hi = bounds or (IntConst(0), self._whole.size(axis.extent))
        hints = ("parallel", "coreidx") if parallel else ("vectorize", "simd") if axis in self._steps else ()
        self._scopes[-1].body.append(For(self._vars[axis], lo, hi, self._steps.get(axis), tuple(scope.body), hints))

    # ----------------------------------------------------------------------------------------------------------------
    # Passes

    def _pass(self, group: Pass) -> None:
        if self._row is not None and self._row in group.inner:
            self._straight(group, self._row)
            return
        self._count_uses(group)
        vector = group.inner[-1] if group.inner and self._nest.vector is None else None
        if vector is not None:
            self._steps[vector] = self._tile("BN")
        if group.across is not None:
            self._steps[group.across] = self._tile("BT")
        block = self._block(group, vector)
        wide = vector is not None or block is not None
        reductions = [m for m in group.members if m.sink.is_reduction]
        accumulators = {id(m): self._accumulators(m, wide) for m in reductions}
        walk = _Walk(group, vector, self._chunk_bounds(group), block, accumulators)
        if block is None or block.strip is None:
            self._loops(walk, list(group.inner))
        else:
            self._strips(walk, *block.strip)
        for member in reductions:
            result, dtype = accumulators[id(member)][-1], member.tile.dtype
            if member.sink.op.startswith("arg"):
                dtype = self._position_dtype(member)
            elif wide and _is_rounded_sum(member):
                dtype = DType.F64
            self._finish(member, result, dtype)

    def _finish(self, member: Member, result: str, dtype: DType) -> None:
        """A reduction's result has a name; it is stored if that is wanted."""
        if dtype is not member.sink.prim.dtype:
            narrow = self._whole.fresh("total")
            dtype = member.sink.prim.dtype
            self._scopes[-1].body.append(Assign(narrow, Cast(Name(result), dtype)))
            result = narrow
        self._results[member.sink.prim] = result
        if member.sink.target is not None:
            self._store(member, Name(result), dtype)

    def _straight(self, group: Pass, row: Axis) -> None:
        """A pass over a row that is held whole."""
        for member in group.members:
            if not member.sink.is_reduction:
                self._store(member, self._value(member.tile), member.tile.dtype)
                continue
            op = member.sink.op
            value: TileExpr = Reduce(op, self._along(member, row), self._vars[row])
            dtype = member.tile.dtype
            if op.startswith("arg"):
                assert member.position is not None
                value, dtype = self._position(member.position, value, row), DType.I64
            result = self._whole.fresh(_STEMS.get(op, "b"))
            self._scopes[-1].body.append(Assign(result, value))
            self._finish(member, result, dtype)

    def _loops(self, walk: _Walk, axes: list[Axis]) -> None:
        if not axes:
            for member in walk.group.members:
                if member.sink.is_reduction:
                    self._accumulate(member, walk.accumulators[id(member)], walk)
                else:
                    self._store(member, self._value(member.tile), member.tile.dtype)
            return
        axis, rest = axes[0], axes[1:]
        if walk.block is None or axis is not walk.block.axis:
            self._open(axis, "k" if axis is walk.vector else "r")
            self._loops(walk, rest)
            self._close(axis, False, walk.bounds.get(axis))
            return
        lo, hi = self._bounds(walk, axis)
        block, size = self._whole.fresh("b"), walk.block.size
        count = _parts(lo, hi, size)
        self._scopes.append(Scope(self._scopes[-1].axes))
        sums = [m for m in walk.group.members if m.sink.is_reduction and _accumulates_error(m)]
        parts = {**walk.accumulators, **{id(m): self._accumulators(m, False) for m in sums}}
        start = plus(lo, times(IntVar(block), size))
        self._open(axis, "r")
        self._loops(_Walk(walk.group, walk.vector, walk.bounds, None, parts), rest)
        self._close(axis, False, (start, IntBin("min", hi, plus(start, size))))
        for member in sums:
            total, part = walk.accumulators[id(member)][0], Name(parts[id(member)][0])
            term = Cast(part, DType.F64) if _is_rounded_sum(member) else part
            self._scopes[-1].body.append(Assign(total, Op("add", (Name(total), term))))
        scope = self._scopes.pop()
        self._scopes[-1].body.append(For(block, IntConst(0), count, None, tuple(scope.body)))

    def _strips(self, walk: _Walk, axis: Axis, most: int) -> None:
        """All loops, for one strip of an axis after the other."""
        lo, hi = self._bounds(walk, axis)
        strip, size = self._whole.fresh("b"), IntConst(most)
        start = plus(lo, times(IntVar(strip), size))
        bounds = {**walk.bounds, axis: (start, IntBin("min", hi, plus(start, size)))}
        self._scopes.append(Scope(self._scopes[-1].axes))
        self._loops(replace(walk, bounds=bounds), list(walk.group.inner))
        scope = self._scopes.pop()
        self._scopes[-1].body.append(For(strip, IntConst(0), _parts(lo, hi, size), None, tuple(scope.body)))

    def _bounds(self, walk: _Walk, axis: Axis) -> tuple[IntExpr, IntExpr]:
        return walk.bounds.get(axis, (IntConst(0), self._whole.size(axis.extent)))

    def _block(self, group: Pass, vector: Axis | None) -> _Block | None:
        """Where long sums over scalar loops are interrupted, so that no accumulator takes many terms at any size."""
        if vector is not None or not any(m.sink.is_reduction and _accumulates_error(m) for m in group.members):
            return None
        in_any_order = not any(m.sink.op.startswith("arg") for m in group.members)
        terms = 1
        inner = list(reversed(group.inner))
        for axis, outside in zip(inner, [*inner[1:], None], strict=False):
            most = self._facts.most(axis.extent)
            if most is not None and terms * most <= 2 * _SUM_BLOCK:
                terms *= most
                continue
            size = max(1, _SUM_BLOCK // terms)
            if most is None and outside is not None and in_any_order and self._facts.value(axis.extent) <= size:
                # Blocks of so few terms would cost as much as the terms: they are those of several trips outside.
                trips = IntBin("max", IntConst(1), self._whole.size(axis.extent))
                several = IntBin("max", IntConst(1), IntBin("//", IntConst(2 * size), trips))
                return _Block(outside, several, (axis, 2 * size))
            return _Block(axis, IntConst(size))
        return None

    def _chunk_bounds(self, group: Pass) -> dict[Axis, tuple[IntExpr, IntExpr]]:
        """The range of the chunked axis, for the partial results of one chunk."""
        chunk = next((m.chunk for m in group.members if m.chunk is not None), None)
        if chunk is None or not group.inner:
            return {}
        count = self._facts.value(chunk.extent)
        wide = [a for a in group.inner if self._facts.value(a.extent) >= count]
        axis = wide[0] if wide else max(group.inner, key=lambda a: self._facts.value(a.extent))
        length = self._whole.size(floor_div(axis.extent + (chunk.extent - 1), chunk.extent))
        number, extent = IntVar(self._vars[chunk]), self._whole.size(axis.extent)
        lo = IntBin("min", times(number, length), extent)
        return {axis: (lo, IntBin("min", times(plus(number, IntConst(1)), length), extent))}

    # ----------------------------------------------------------------------------------------------------------------
    # Reductions

    def _accumulators(self, member: Member, wide: bool) -> list[str]:
        """Allocate what a reduction carries: the result last (arg-max carries the extreme first).

        wide: partial sums in f32 are added up in f64, so that the error does not grow with their number.
        """
        op, value = member.sink.op, member.tile.dtype
        if wide and _is_rounded_sum(member):
            value = DType.F64
        axes = (self._vars[self._nest.vector],) if self._nest.vector is not None else ()
        names: list[str] = []

        def alloc(stem: str, dtype: DType, init: Number) -> None:
            names.append(self._whole.fresh(stem))
            hints = ("fastest", "accumulator")
            self._scopes[-1].body.append(Alloc(names[-1], axes, dtype, init, hints))

        if op.startswith("arg"):
            alloc("best", value, identity(op[3:], value))
            alloc("at", self._position_dtype(member), 0)
        else:
            alloc(_STEMS.get(op, "b"), value, identity(op, value))
        return names

    def _accumulate(self, member: Member, names: list[str], walk: _Walk) -> None:
        op, vector = member.sink.op, walk.vector
        value = self._along(member, vector)
        along = self._vars[vector] if vector is not None else None
        body = self._scopes[-1].body
        if not op.startswith("arg"):
            part: TileExpr = Reduce(op, value, along) if along is not None else value
            if along is not None and _is_rounded_sum(member):
                part = Cast(part, DType.F64)
            body.append(Assign(names[0], Op(COMBINE[op], (Name(names[0]), part))))
            return
        best, at = names
        assert member.position is not None
        extreme = "max" if op == "argmax" else "min"
        found = self._whole.fresh("v")
        where = self._whole.fresh("w")
        if along is not None:
            whole = self._whole.fresh("u")
            body.append(Assign(whole, value))
            body.append(Assign(found, Reduce(extreme, Name(whole), along)))
            assert vector is not None
            place = self._position(member.position, Reduce(op, Name(whole), along), vector)
        else:
            body.append(Assign(found, value))
            place = self._number(member.position)
        if self._position_dtype(member) is not DType.I64:
            place = Cast(place, self._position_dtype(member))
        body.append(Assign(where, place))
        v, b, w, a = Name(found), Name(best), Name(where), Name(at)
        if self._in_order(member.position, walk.group.inner):
            better = surpasses(extreme, member.tile.dtype, v, b)
        else:
            better = beats(extreme, member.tile.dtype, (v, w), (b, a))
        wins = self._whole.fresh("wins")
        body.append(Assign(wins, better))
        body.append(Assign(best, Op("where", (Name(wins), v, b))))
        body.append(Assign(at, Op("where", (Name(wins), w, a))))

    def _along(self, member: Member, vector: Axis | None) -> TileExpr:
        """A member's value, in every lane of the axis that it is reduced over."""
        value = self._value(member.tile)
        if vector is None or vector in member.tile.axes:
            return value
        lane = Op("ge", (Lanes(self._vars[vector]), Literal(0)))
        other = Literal(value.value) if isinstance(value, Literal) else value
        return Op("where", (lane, value, other))

    def _in_order(self, position: Index, loops: Sequence[Axis]) -> bool:
        """Whether the loops meet the elements in the order of their numbers: then the first of equals comes first."""
        steps = dict(position.terms)
        reach: Size = 1
        for axis in reversed(loops):
            if axis not in steps or not self._facts.at_most(reach, steps[axis]):
                return False
            reach = steps[axis] * axis.extent
        return True

    def _position_dtype(self, member: Member) -> DType:
        """As narrow as the number of an element allows, so that it has as many lanes as the values."""
        terms = self._facts.most(product(a.extent for a in member.inner))
        return DType.I32 if terms is not None and terms < 1 << 31 else DType.I64

    def _position(self, position: Index, first: TileExpr, vector: Axis) -> TileExpr:
        """The number of an element among those reduced, where `first` is its lane in a tile."""
        step = next((c for a, c in position.terms if a is vector), 0)
        rest = Index(tuple((a, c) for a, c in position.terms if a is not vector))
        place = first if step == 1 else Op("mul", (first, IndexValue(self._whole.size(step))))
        return Op("add", (place, IndexValue(self._int(rest)))) if rest.terms else place


def _parts(lo: IntExpr, hi: IntExpr, size: IntExpr) -> IntExpr:
    """How many parts of that size a range has."""
    most = IntConst(size.value - 1) if isinstance(size, IntConst) else minus(size, IntConst(1))
    return IntBin("//", plus(minus(hi, lo), most), size)


_STEMS = {"sum": "s", "max": "m", "min": "m", "prod": "p", "argmax": "at", "argmin": "at"}


def _accumulates_error(member: Member) -> bool:
    return member.sink.op == "sum" and member.tile.dtype.is_float


def _is_rounded_sum(member: Member) -> bool:
    """Whether a sum of f32 is wanted in f64."""
    return member.sink.op == "sum" and member.tile.dtype is DType.F32 and member.sink.prim.dtype is DType.F64
