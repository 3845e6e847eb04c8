"""Builds sketches from Python: a scope-aware builder, and expressions with operators.

    b = SketchBuilder("scale")
    (n,) = b.symbols("N")
    x, y = b.tensor("x", [n], DType.F32, "in"), b.tensor("y", [n], DType.F32, "out")
    with b.tiles("i", 0, n, b.constexpr("BN", 1024), hints=["parallel"]) as i:
        t = b.let("t", x[i].load())
        b.store(y[i], t * 2.0)
    sketch = b.build()

An index is an integer, an `Axis` (its lanes; ``j + 64`` shifts them), or a named tile (a gather). `simplify` folds the
integer expressions that programs tend to produce.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

from akg_dynamo.agents.sketch.ast import (
    Alloc,
    Assign,
    At,
    AxisDecl,
    Cast,
    ConstExpr,
    Dot,
    DType,
    For,
    Gather,
    Index,
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
    Scan,
    Sketch,
    Span,
    Stmt,
    Store,
    TensorDecl,
    TensorRef,
    TileExpr,
)
from akg_dynamo.agents.sketch.intexpr import simplify
from akg_dynamo.core.errors import SketchError

IntLike: TypeAlias = "Int | IntExpr | int"
TileLike: TypeAlias = "Tile | TileExpr | float | int | bool"


def int_expr(x: IntLike) -> IntExpr:
    """The simplified expression of an `Int`, an expression or a Python integer."""
    if isinstance(x, Int):
        return simplify(x.expr)
    return IntConst(x) if isinstance(x, int) else simplify(x)


@dataclass(frozen=True)
class Int:
    """An integer expression with Python's operators."""

    expr: IntExpr

    def _with(self, op: str, other: IntLike) -> Int:
        return Int(simplify(IntBin(op, self.expr, int_expr(other))))

    def __add__(self, other: IntLike) -> Int:
        return self._with("+", other)

    def __radd__(self, other: IntLike) -> Int:
        return Int(int_expr(other))._with("+", self)

    def __sub__(self, other: IntLike) -> Int:
        return self._with("-", other)

    def __rsub__(self, other: IntLike) -> Int:
        return Int(int_expr(other))._with("-", self)

    def __mul__(self, other: IntLike) -> Int:
        return self._with("*", other)

    def __rmul__(self, other: IntLike) -> Int:
        return Int(int_expr(other))._with("*", self)

    def __floordiv__(self, other: IntLike) -> Int:
        return self._with("//", other)

    def __mod__(self, other: IntLike) -> Int:
        return self._with("%", other)

    def ceil_div(self, other: IntLike) -> Int:
        """The quotient rounded up, for a positive divisor."""
        divisor = Int(int_expr(other))
        return (self + (divisor - 1)) // divisor


_NO_SHIFT = IntConst(0)


@dataclass(frozen=True)
class Axis:
    """The lanes of an axis; adding an integer shifts them."""

    name: str
    shift: IntExpr = _NO_SHIFT

    def __add__(self, other: IntLike) -> Axis:
        return Axis(self.name, simplify(IntBin("+", self.shift, int_expr(other))))

    def __sub__(self, other: IntLike) -> Axis:
        return Axis(self.name, simplify(IntBin("-", self.shift, int_expr(other))))

    @property
    def first(self) -> Int:
        """The first lane, as an integer."""
        return Int(IntVar(self.name))

    @property
    def lanes(self) -> Tile:
        """The global index of each lane."""
        return Tile(Lanes(self.name))


def tile_expr(x: TileLike) -> TileExpr:
    """The expression of a `Tile`, or of a Python number as a literal."""
    if isinstance(x, Tile):
        return x.expr
    return Literal(x) if isinstance(x, (bool, int, float)) else x


def op(name: str, *args: TileLike) -> Tile:
    """An operation of `ops.OPS`."""
    return Tile(Op(name, tuple(tile_expr(a) for a in args)))


@dataclass(frozen=True)
class Tile:
    """A tile expression with Python's operators. ``==`` and ``!=`` compare expressions: use ``op("eq", a, b)``."""

    expr: TileExpr

    def __add__(self, other: TileLike) -> Tile:
        return op("add", self, other)

    def __radd__(self, other: TileLike) -> Tile:
        return op("add", other, self)

    def __sub__(self, other: TileLike) -> Tile:
        return op("sub", self, other)

    def __rsub__(self, other: TileLike) -> Tile:
        return op("sub", other, self)

    def __mul__(self, other: TileLike) -> Tile:
        return op("mul", self, other)

    def __rmul__(self, other: TileLike) -> Tile:
        return op("mul", other, self)

    def __truediv__(self, other: TileLike) -> Tile:
        return op("div", self, other)

    def __rtruediv__(self, other: TileLike) -> Tile:
        return op("div", other, self)

    def __floordiv__(self, other: TileLike) -> Tile:
        return op("floordiv", self, other)

    def __mod__(self, other: TileLike) -> Tile:
        return op("mod", self, other)

    def __neg__(self) -> Tile:
        return op("neg", self)

    def __invert__(self) -> Tile:
        return op("not", self)

    def __and__(self, other: TileLike) -> Tile:
        return op("and", self, other)

    def __or__(self, other: TileLike) -> Tile:
        return op("or", self, other)

    def __xor__(self, other: TileLike) -> Tile:
        return op("xor", self, other)

    def __lt__(self, other: TileLike) -> Tile:
        return op("lt", self, other)

    def __le__(self, other: TileLike) -> Tile:
        return op("le", self, other)

    def __gt__(self, other: TileLike) -> Tile:
        return op("gt", self, other)

    def __ge__(self, other: TileLike) -> Tile:
        return op("ge", self, other)

    def cast(self, dtype: DType) -> Tile:
        """`cast(self, dtype)`."""
        return Tile(Cast(self.expr, dtype))


def literal(value: float | int | bool, dtype: DType) -> Tile:
    """A literal with a dtype."""
    return Tile(Literal(value, dtype))


def index(x: IntLike) -> Tile:
    """An integer expression as an i64 tile."""
    return Tile(IndexValue(int_expr(x)))


def reduce(name: str, x: TileLike, axis: Axis) -> Tile:
    """`reduce_<name>(x, axis)`."""
    return Tile(Reduce(name, tile_expr(x), axis.name))


def scan(name: str, x: TileLike, axis: Axis) -> Tile:
    """`scan_<name>(x, axis)`."""
    return Tile(Scan(name, tile_expr(x), axis.name))


def dot(a: TileLike, b: TileLike, axis: Axis, precision: str = "ieee") -> Tile:
    """`dot(a, b, axis)`."""
    return Tile(Dot(tile_expr(a), tile_expr(b), axis.name, precision))


@dataclass(frozen=True)
class Access:
    """A tensor with its indices: `load` it, or give it to `SketchBuilder.store`."""

    ref: TensorRef

    def load(self, other: float | int | bool = 0, where: TileLike | None = None) -> Tile:
        """`load(ref, other=…, where=…)`."""
        return Tile(Load(self.ref, other, None if where is None else tile_expr(where)))


@dataclass(frozen=True)
class Tensor:
    """A declared tensor; ``x[i, j]`` accesses it, ``x[()]`` a tensor without dimensions."""

    decl: TensorDecl

    def __getitem__(self, indices: IndexLike | tuple[IndexLike, ...]) -> Access:
        many = indices if isinstance(indices, tuple) else (indices,)
        return Access(TensorRef(self.decl.name, tuple(_index(i) for i in many)))


IndexLike: TypeAlias = "IntLike | Axis | Tile"


def _index(x: IndexLike) -> Index:
    if isinstance(x, Axis):
        return Span(x.name, x.shift)
    if isinstance(x, Tile):
        if not isinstance(x.expr, Name):
            raise SketchError("a tensor is indexed by a named tile: give the index a name with let")
        return Gather(x.expr.name)
    return At(int_expr(x))


class SketchBuilder:
    """Collects declarations and statements; `loop` is a context manager. `build` gives the sketch, unchecked."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._symbols: list[str] = []
        self._tensors: list[TensorDecl] = []
        self._constexprs: list[ConstExpr] = []
        self._bodies: list[list[Stmt]] = [[]]
        self._used: set[str] = set()

    def build(self) -> Sketch:
        """What was collected so far."""
        return Sketch(
            self.name, tuple(self._symbols), tuple(self._tensors), tuple(self._constexprs), tuple(self._bodies[0])
        )

    def fresh(self, prefix: str) -> str:
        """A name that nothing has had: `prefix`, or with a number behind it."""
        name, number = prefix, 1
        while name in self._used:
            number += 1
            name = f"{prefix}{number}"
        self._used.add(name)
        return name

    def symbols(self, *names: str) -> tuple[Int, ...]:
        """Declares run-time sizes."""
        self._symbols += names
        self._used.update(names)
        return tuple(Int(IntVar(n)) for n in names)

    def constexpr(self, name: str, value: int, space: Sequence[int] = ()) -> str:
        """Declares a tile size and returns its name, as `loop` and `axis` take it."""
        self._constexprs.append(ConstExpr(name, value, tuple(space)))
        self._used.add(name)
        return name

    def tensor(
        self, name: str, shape: Sequence[IntLike], dtype: DType, kind: str, strides: Sequence[IntLike] | None = None
    ) -> Tensor:
        """Declares a tensor."""
        steps = None if strides is None else tuple(int_expr(s) for s in strides)
        decl = TensorDecl(name, tuple(int_expr(d) for d in shape), dtype, kind, steps)
        self._tensors.append(decl)
        self._used.add(name)
        return Tensor(decl)

    @contextmanager
    def tiles(
        self, var: str, start: IntLike, stop: IntLike, step: str | int, hints: Sequence[str] = ()
    ) -> Iterator[Axis]:
        """A loop over tiles of an axis."""
        with self._loop(var, start, stop, step, hints):
            yield Axis(var)

    @contextmanager
    def loop(self, var: str, start: IntLike, stop: IntLike, hints: Sequence[str] = ()) -> Iterator[Int]:
        """A scalar loop."""
        with self._loop(var, start, stop, None, hints):
            yield Int(IntVar(var))

    @contextmanager
    def _loop(
        self, var: str, start: IntLike, stop: IntLike, step: str | int | None, hints: Sequence[str]
    ) -> Iterator[None]:
        self._used.add(var)
        self._bodies.append([])
        yield
        body = tuple(self._bodies.pop())
        self._bodies[-1].append(For(var, int_expr(start), int_expr(stop), step, body, tuple(hints)))

    def axis(self, var: str, start: IntLike, stop: IntLike, size: str | int) -> Axis:
        """An axis that is not a loop."""
        self._used.add(var)
        self._bodies[-1].append(AxisDecl(var, int_expr(start), int_expr(stop), size))
        return Axis(var)

    def let(self, name: str, value: TileLike) -> Tile:
        """`name = value`, new or rebound."""
        self._used.add(name)
        self._bodies[-1].append(Assign(name, tile_expr(value)))
        return Tile(Name(name))

    def alloc(
        self,
        name: str,
        axes: Sequence[Axis],
        dtype: DType,
        init: float | int | bool = 0,
        hints: Sequence[str] = ("fastest", "accumulator"),
    ) -> Tile:
        """A tile that loops update with `let`."""
        self._used.add(name)
        self._bodies[-1].append(Alloc(name, tuple(a.name for a in axes), dtype, init, tuple(hints)))
        return Tile(Name(name))

    def store(self, access: Access, value: TileLike) -> None:
        """`store(value -> access)`."""
        self._bodies[-1].append(Store(tile_expr(value), access.ref))


__all__ = [
    "Access",
    "Axis",
    "Int",
    "SketchBuilder",
    "Tensor",
    "Tile",
    "dot",
    "index",
    "int_expr",
    "literal",
    "op",
    "reduce",
    "scan",
    "simplify",
    "tile_expr",
]
