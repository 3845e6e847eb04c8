"""What a nest's loops contain, whatever they are mapped to: scopes, named tiles, expressions and accesses."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from akg_dynamo.agents.designer.declare import SMALL, Declarations, minus, plus, times
from akg_dynamo.agents.designer.domain import Access, Axis, Index, Tile
from akg_dynamo.agents.designer.nests import Member, Nest, Pass
from akg_dynamo.agents.designer.prims import Number, Prim
from akg_dynamo.agents.sketch.ast import (
    Assign,
    At,
    Cast,
    DType,
    Gather,
    IndexValue,
    IntConst,
    IntExpr,
    IntVar,
    Lanes,
    Literal,
    Load,
    Name,
    Op,
    Span,
    Stmt,
    Store,
    TensorRef,
    TileExpr,
)
from akg_dynamo.agents.sketch.ast import Index as RefIndex

ZERO = IntConst(0)
COMBINE = {"sum": "add", "prod": "mul", "max": "maximum", "min": "minimum", "any": "or", "all": "and"}
"""How partial results of a reduction are combined."""


@dataclass
class Scope:
    """A body under construction: its statements, and the tiles it has named."""

    axes: frozenset[Axis]
    body: list[Stmt] = field(default_factory=list)
    named: dict[int, TileExpr] = field(default_factory=dict)


class NestWriter:
    """The body of one nest under construction: which axes are open, and which tiles have names in which scope."""

    def __init__(self, whole: Declarations, nest: Nest) -> None:
        self._whole, self._nest, self._facts = whole, nest, whole.facts
        self._vars: dict[Axis, str] = {}
        self._steps: dict[Axis, str] = {}
        self._shifts: dict[Axis, IntExpr] = {}  # of a tiled axis whose lanes are counted from somewhere else
        self._scopes: list[Scope] = []
        self._results: dict[Prim, str] = {}
        self._uses: dict[int, int] = {}

    def _open(self, axis: Axis, stem: str) -> None:
        self._vars[axis] = self._whole.fresh(stem)
        self._scopes.append(Scope(self._scopes[-1].axes | {axis}))

    def _store(self, member: Member, value: TileExpr, dtype: DType) -> None:
        target = member.sink.target
        assert target is not None
        if target.dtype is not dtype:
            value = Literal(value.value) if isinstance(value, Literal) and target.dtype.is_float else Cast(
                value, target.dtype
            )  # fmt: skip
        ref = self._ref(Access(target, member.at))
        self._scopes[-1].body.append(Store(value, ref))

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

    def _hoist(self, tile: Tile, here: Scope) -> None:
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

    def _home(self, tile: Tile) -> Scope:
        """The outermost open body where everything the tile varies over is known."""
        known = frozenset(self._vars)
        for scope in self._homes():
            if tile.axes & known <= scope.axes and self._reds_known(tile, scope):
                return scope
        return self._scopes[-1]

    def _homes(self) -> list[Scope]:
        """The bodies where a tile may be named, outermost first."""
        return self._scopes

    def _reds_known(self, tile: Tile, scope: Scope) -> bool:
        outer = len(self._nest.outer)
        return not tile.has_red or self._scopes.index(scope) >= outer

    def _name(self, tile: Tile, home: Scope) -> Name:
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
            return Load(self._ref(tile.attr), tile.attr.other)
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
                if axis in self._shifts:
                    part = Op("add", (part, IndexValue(self._shifts[axis])))
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
                indices.append(self._span(what) if what in self._steps else At(IntVar(var)))
            elif index.tile is None and not any(a in self._steps for a, _ in index.terms):
                indices.append(At(self._int(index)))
            elif index.tile is None and sum(1 for a, _ in index.terms if a in self._steps) == 1 and all(
                c == 1 for a, c in index.terms if a in self._steps
            ):  # fmt: skip
                axis = next(a for a, _ in index.terms if a in self._steps)
                rest = Index(tuple((a, c) for a, c in index.terms if a is not axis), index.const)
                indices.append(self._span(axis, self._int(rest)))
            else:
                indices.append(Gather(self._gather_name(index)))
        return TensorRef(name, tuple(indices))

    def _span(self, axis: Axis, rest: IntExpr = ZERO) -> Span:
        """The lanes of a tiled axis, `rest` further on."""
        return Span(self._vars[axis], plus(self._shifts.get(axis, ZERO), rest))

    def _gather_name(self, index: Index) -> str:
        """A computed index by name."""
        tile = self._nest.tiles.index(index)
        named = self._named(tile)
        if isinstance(named, Name):
            return named.name
        if tile is not index.tile:
            self._prepare(tile)
        return self._name(tile, self._home(tile)).name


def identity(op: str, dtype: DType) -> Number:
    """What a reduction starts from."""
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


def surpasses(extreme: str, dtype: DType, v: TileExpr, b: TileExpr) -> TileExpr:
    """Whether v is the better extreme, and no equal one: NaN before all."""
    if not dtype.is_float:
        return Op("gt" if extreme == "max" else "lt", (v, b))
    worse = Op("le" if extreme == "max" else "ge", (v, b))
    return Op("and", (Op("not", (worse,)), Op("eq", (b, b))))


def beats(extreme: str, dtype: DType, new: tuple[TileExpr, TileExpr], old: tuple[TileExpr, TileExpr]) -> TileExpr:
    """Whether (value, position) `new` is the better extreme: NaN before all, and of equals the first."""
    (v, w), (b, a) = new, old
    better: TileExpr = Op("gt" if extreme == "max" else "lt", (v, b))
    tie: TileExpr = Op("eq", (v, b))
    if dtype.is_float:
        nan_v, nan_b = Op("isnan", (v,)), Op("isnan", (b,))
        better = Op("or", (better, Op("and", (nan_v, Op("not", (nan_b,))))))
        tie = Op("or", (tie, Op("and", (nan_v, nan_b))))
    return Op("or", (better, Op("and", (tie, Op("lt", (w, a))))))
