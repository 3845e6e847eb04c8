"""A schedule written as a sketch: its loops, and the tiles in them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from akg_dynamo.agents.designer.declare import SMALL, Declarations, minus, plus, times
from akg_dynamo.agents.designer.domain import Access, Axis, Index, Tile
from akg_dynamo.agents.designer.nests import COLUMN_TILE, Member, Nest, Pass
from akg_dynamo.agents.designer.prims import Number, Prim
from akg_dynamo.agents.designer.schedule import Schedule
from akg_dynamo.agents.designer.sizes import SizeFacts, floor_div
from akg_dynamo.agents.sketch.ast import (
    Alloc,
    Assign,
    At,
    Cast,
    DType,
    For,
    Gather,
    IndexValue,
    IntBin,
    IntConst,
    IntExpr,
    IntVar,
    Lanes,
    Literal,
    Load,
    Name,
    Op,
    Reduce,
    Span,
    Stmt,
    Store,
    TensorRef,
    TileExpr,
)
from akg_dynamo.agents.sketch.ast import Index as RefIndex
from akg_dynamo.core.types import Design

ROW_TILE = 1024
SQUARE_TILE = 32
_SUM_BLOCK = 16  # how many terms an f32 accumulator takes before it is added to a wider one


@dataclass
class _Scope:
    """A body under construction: its statements, and the tiles it has named."""

    axes: frozenset[Axis]
    body: list[Stmt] = field(default_factory=list)
    named: dict[int, TileExpr] = field(default_factory=dict)


@dataclass(frozen=True)
class _Block:
    """A scalar loop is cut into blocks of `size` terms."""

    axis: Axis
    size: int


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


class _NestEmitter:
    """Writes one nest."""

    def __init__(self, whole: Declarations, nest: Nest) -> None:
        self._whole, self._nest, self._facts = whole, nest, whole.facts
        self._vars: dict[Axis, str] = {}
        self._steps: dict[Axis, str] = {}
        self._scopes: list[_Scope] = []
        self._results: dict[Prim, str] = {}
        self._uses: dict[int, int] = {}

    def emit(self) -> list[Stmt]:
        """The nest's statements."""
        top = _Scope(frozenset())
        self._scopes = [top]
        headers: list[tuple[Axis, bool]] = []
        for axis in self._nest.outer:
            tiled = axis in (self._nest.vector, self._nest.across)
            if tiled:
                only = not any(p.inner for p in self._nest.passes)
                name = "BT" if self._nest.across is not None else "BN" if only else "BC"
                self._steps[axis] = self._tile(name)
            self._open(axis, "i" if not tiled else "j")
            headers.append((axis, True))
        for group in self._nest.passes:
            self._pass(group)
        for axis, parallel in reversed(headers):
            self._close(axis, parallel)
        return top.body

    def _tile(self, name: str) -> str:
        if name == "BN":
            return self._whole.constexpr("BN", ROW_TILE, (256, 512, 1024, 2048))
        if name == "BT":
            return self._whole.constexpr("BT", SQUARE_TILE, (16, 32, 64))
        return self._whole.constexpr("BC", COLUMN_TILE, (64, 128, 256, 512))

    def _open(self, axis: Axis, stem: str) -> None:
        self._vars[axis] = self._whole.fresh(stem)
        self._scopes.append(_Scope(self._scopes[-1].axes | {axis}))

    def _close(self, axis: Axis, parallel: bool, bounds: tuple[IntExpr, IntExpr] | None = None) -> None:
        scope = self._scopes.pop()
        lo, hi = bounds or (IntConst(0), self._whole.size(axis.extent))
        hints = ("parallel", "coreidx") if parallel else ("vectorize", "simd") if axis in self._steps else ()
        self._scopes[-1].body.append(For(self._vars[axis], lo, hi, self._steps.get(axis), tuple(scope.body), hints))

    # ----------------------------------------------------------------------------------------------------------------
    # Passes

    def _pass(self, group: Pass) -> None:
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
        self._loops(walk, list(group.inner))
        for member in reductions:
            result, dtype = accumulators[id(member)][-1], member.tile.dtype
            if member.sink.op.startswith("arg"):
                dtype = DType.I64
            elif wide and _is_rounded_sum(member):
                dtype = DType.F64
            if dtype is not member.sink.prim.dtype:
                narrow = self._whole.fresh("total")
                dtype = member.sink.prim.dtype
                self._scopes[-1].body.append(Assign(narrow, Cast(Name(result), dtype)))
                result = narrow
            self._results[member.sink.prim] = result
            if member.sink.target is not None:
                self._store(member, Name(result), dtype)

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
        lo, hi = walk.bounds.get(axis, (IntConst(0), self._whole.size(axis.extent)))
        block, size = self._whole.fresh("b"), IntConst(walk.block.size)
        count = IntBin("//", plus(minus(hi, lo), IntConst(walk.block.size - 1)), size)
        self._scopes.append(_Scope(self._scopes[-1].axes))
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

    def _block(self, group: Pass, vector: Axis | None) -> _Block | None:
        """Where long sums over scalar loops are interrupted, so that no accumulator takes many terms."""
        if vector is not None or not any(m.sink.is_reduction and _accumulates_error(m) for m in group.members):
            return None
        terms = 1
        for axis in reversed(group.inner):
            extent = self._facts.value(axis.extent)
            if terms * extent > 2 * _SUM_BLOCK:
                return _Block(axis, max(1, _SUM_BLOCK // terms))
            terms *= extent
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
            alloc("best", value, _identity(op[3:], value))
            alloc("at", DType.I64, 0)
        else:
            alloc({"sum": "s", "max": "m", "min": "m", "prod": "p"}.get(op, "b"), value, _identity(op, value))
        return names

    def _accumulate(self, member: Member, names: list[str], walk: _Walk) -> None:
        op, vector = member.sink.op, walk.vector
        value = self._value(member.tile)
        along = self._vars[vector] if vector is not None else None
        if along is not None and vector not in member.tile.axes:  # the same number in every lane
            lane = Op("ge", (Lanes(along), Literal(0)))
            value = Op("where", (lane, value, value)) if not isinstance(value, Literal) else _spread(lane, value)
        body = self._scopes[-1].body
        if not op.startswith("arg"):
            part: TileExpr = Reduce(op, value, along) if along is not None else value
            if along is not None and _is_rounded_sum(member):
                part = Cast(part, DType.F64)
            body.append(Assign(names[0], Op(_COMBINE[op], (Name(names[0]), part))))
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
            first = Reduce(op, Name(whole), along)
            step = next((c for a, c in member.position.terms if a is vector), 0)
            rest = Index(tuple((a, c) for a, c in member.position.terms if a is not vector))
            place: TileExpr = first if step == 1 else Op("mul", (first, IndexValue(self._whole.size(step))))
            if rest.terms:
                place = Op("add", (place, IndexValue(self._int(rest))))
        else:
            body.append(Assign(found, value))
            place = self._number(member.position)
        body.append(Assign(where, place))
        v, b, w, a = Name(found), Name(best), Name(where), Name(at)
        better: TileExpr = Op("gt" if extreme == "max" else "lt", (v, b))
        tie: TileExpr = Op("eq", (v, b))
        if member.tile.dtype.is_float:
            nan_v, nan_b = Op("isnan", (v,)), Op("isnan", (b,))
            better = Op("or", (better, Op("and", (nan_v, Op("not", (nan_b,))))))
            tie = Op("or", (tie, Op("and", (nan_v, nan_b))))
        better = Op("or", (better, Op("and", (tie, Op("lt", (w, a))))))
        wins = self._whole.fresh("wins")
        body.append(Assign(wins, better))
        body.append(Assign(best, Op("where", (Name(wins), v, b))))
        body.append(Assign(at, Op("where", (Name(wins), w, a))))

    def _store(self, member: Member, value: TileExpr, dtype: DType) -> None:
        target = member.sink.target
        assert target is not None
        if target.dtype is not dtype:
            value = Literal(value.value) if isinstance(value, Literal) and target.dtype.is_float else Cast(
                value, target.dtype
            )  # fmt: skip
        ref = self._ref(Access(target, member.at))
        self._scopes[-1].body.append(Store(value, ref))

    # ----------------------------------------------------------------------------------------------------------------
    # Expressions

    def _count_uses(self, group: Pass) -> None:
        seen: set[int] = set()
        stack: list[Tile] = []
        for member in group.members:
            self._uses[id(member.tile)] = self._uses.get(id(member.tile), 0) + 1
            stack.append(member.tile)
        while stack:
            t = stack.pop()
            if id(t) in seen:
                continue
            seen.add(id(t))
            for a in t.below:
                self._uses[id(a)] = self._uses.get(id(a), 0) + 1
            stack.extend(t.below)

    def _value(self, tile: Tile) -> TileExpr:
        """The tile's value: a name, a literal, or the expression itself where it is used once and here."""
        self._prepare(tile)
        return self._expr(tile, 0)

    def _prepare(self, root: Tile) -> None:
        """Name what must be named before use, operands first (without recursion: chains may be long)."""
        stack: list[tuple[Tile, bool]] = [(root, False)]
        done: set[int] = set()
        while stack:
            tile, ready = stack.pop()
            if id(tile) in done:
                continue
            if not ready:
                if self._named(tile) is None:
                    stack.append((tile, True))
                    stack.extend((a, False) for a in reversed(tile.below))
                continue
            done.add(id(tile))
            if tile.kind in ("const", "red") or self._named(tile) is not None:
                continue
            if tile.kind == "load":
                for index in tile.attr.indices:
                    if index.tile is not None:
                        self._gather_name(index)
            home = self._home(tile)
            for operand in tile.args:
                self._hoist(operand, home)
            if (self._uses.get(id(tile), 0) > 1 and not self._is_integer(tile)) or self._height(tile) >= 5:
                self._name(tile, home)
        self._hoist(root, self._scopes[-1])

    def _hoist(self, tile: Tile, here: _Scope) -> None:
        """Name a tile that is known further out than where it is used."""
        if tile.kind not in ("const", "red") and not self._is_integer(tile) and self._named(tile) is None:
            home = self._home(tile)
            if home is not here:
                self._name(tile, home)

    def _is_integer(self, tile: Tile) -> bool:
        """Whether it is an index over scalar loops only, which costs nothing where it stands."""
        return tile.kind == "index" and not any(a in self._steps for a in tile.axes)

    def _height(self, tile: Tile) -> int:
        """How deep the expression would be if written in place."""
        if self._named(tile) is not None or not tile.args:
            return 0
        return 1 + max(self._height(a) for a in tile.args)

    def _home(self, tile: Tile) -> _Scope:
        """The outermost open body where everything the tile varies over is known."""
        known = frozenset(self._vars)
        for scope in self._scopes:
            if tile.axes & known <= scope.axes and self._reds_known(tile, scope):
                return scope
        return self._scopes[-1]

    def _reds_known(self, tile: Tile, scope: _Scope) -> bool:
        outer = len(self._nest.outer)
        return not tile.has_red or self._scopes.index(scope) >= outer

    def _name(self, tile: Tile, home: _Scope) -> Name:
        stem = "x" if tile.kind == "load" else "v"
        expr = self._expr(tile, 0)
        name = Name(self._whole.fresh(f"{stem}_"[:-1] if stem == "v" else "a"))
        home.body.append(Assign(name.name, expr))
        home.named[id(tile)] = name
        return name

    def _named(self, tile: Tile) -> TileExpr | None:
        for scope in reversed(self._scopes):
            found = scope.named.get(id(tile))
            if found is not None:
                return found
        return None

    def _expr(self, tile: Tile, depth: int) -> TileExpr:
        named = self._named(tile)
        if named is not None:
            return named
        if tile.kind == "const":
            return Literal(tile.attr, tile.dtype)
        if tile.kind == "red":
            return Name(self._results[tile.attr.prim])
        if tile.kind == "index":
            return self._number(tile.attr)
        if tile.kind == "load":
            return Load(self._ref(tile.attr))
        args = [self._expr(a, depth + 1) for a in tile.args]
        if tile.kind == "cast":
            return Cast(args[0], tile.dtype)
        operands = args[1:] if tile.attr == "where" else args
        if not all(isinstance(a, Literal) for a in operands):
            args = [Literal(a.value) if isinstance(a, Literal) else a for a in args]
        elif tile.attr == "where" and isinstance(args[0], Literal):
            args[0] = Literal(args[0].value, DType.BOOL)
        return Op(tile.attr, tuple(args))

    def _number(self, index: Index) -> TileExpr:
        """An affine index as an i64 tile."""
        scalar = Index(tuple((a, c) for a, c in index.terms if a not in self._steps), index.const)
        value: TileExpr | None = None
        for axis, c in index.terms:
            if axis in self._steps:
                part: TileExpr = Lanes(self._vars[axis])
                if c != 1:
                    part = Op("mul", (part, IndexValue(self._whole.size(c))))
                value = part if value is None else Op("add", (value, part))
        if value is None:
            plain = self._int(scalar)
            return Literal(plain.value, DType.I64) if isinstance(plain, IntConst) else IndexValue(plain)
        if not scalar.terms and isinstance(scalar.const, int) and abs(scalar.const) <= SMALL:
            return value if scalar.const == 0 else Op("add", (value, Literal(scalar.const)))
        return Op("add", (value, IndexValue(self._int(scalar))))

    def _int(self, index: Index) -> IntExpr:
        """An affine index over scalar loops as an integer expression."""
        total: IntExpr | None = None
        for axis, c in index.terms:
            part = times(IntVar(self._vars[axis]), self._whole.size(c))
            total = part if total is None else plus(total, part)
        if total is None:
            return self._whole.size(index.const)
        if isinstance(index.const, int) and index.const < 0:
            return minus(total, self._whole.size(-index.const))
        return total if index.const == 0 else plus(total, self._whole.size(index.const))

    def _ref(self, access: Access) -> TensorRef:
        name, dims = self._whole.access(access, self._nest.tiles)
        indices: list[RefIndex] = []
        for what, index in dims:
            if isinstance(what, Axis):
                var = self._vars[what]
                indices.append(Span(var) if what in self._steps else At(IntVar(var)))
            elif index.tile is None and not any(a in self._steps for a, _ in index.terms):
                indices.append(At(self._int(index)))
            elif index.tile is None and sum(1 for a, _ in index.terms if a in self._steps) == 1 and all(
                c == 1 for a, c in index.terms if a in self._steps
            ):  # fmt: skip
                axis = next(a for a, _ in index.terms if a in self._steps)
                rest = Index(tuple((a, c) for a, c in index.terms if a is not axis), index.const)
                indices.append(Span(self._vars[axis], self._int(rest)))
            else:
                indices.append(Gather(self._gather_name(index)))
        return TensorRef(name, tuple(indices))

    def _gather_name(self, index: Index) -> str:
        """A computed index by name."""
        tile = self._nest.tiles.index(index)
        named = self._named(tile)
        if isinstance(named, Name):
            return named.name
        if tile is not index.tile:
            self._prepare(tile)
        return self._name(tile, self._home(tile)).name


_COMBINE = {"sum": "add", "prod": "mul", "max": "maximum", "min": "minimum", "any": "or", "all": "and"}


def _accumulates_error(member: Member) -> bool:
    return member.sink.op == "sum" and member.tile.dtype.is_float


def _is_rounded_sum(member: Member) -> bool:
    """Whether a sum of f32 is wanted in f64."""
    return member.sink.op == "sum" and member.tile.dtype is DType.F32 and member.sink.prim.dtype is DType.F64


def _spread(lane: TileExpr, value: Literal) -> TileExpr:
    return Op("where", (lane, value, Literal(value.value)))


def _identity(op: str, dtype: DType) -> Number:
    if op in ("sum", "any"):
        return False if dtype is DType.BOOL else 0.0 if dtype.is_float else 0
    if op in ("prod", "all"):
        return True if dtype is DType.BOOL else 1.0 if dtype.is_float else 1
    if dtype.is_float:
        return -math.inf if op == "max" else math.inf
    if dtype is DType.BOOL:
        return op == "min"
    low = 0 if dtype is DType.U8 else -(1 << (8 * dtype.size_bytes - 1))
    high = (1 << (8 * dtype.size_bytes - (0 if dtype is DType.U8 else 1))) - 1
    return low if op == "max" else high
