"""The checker: what is well formed. Every error names the line (or, in memory, the statement) and the reason.

It knows types: a tile has a dtype and a set of axes, both known from the text alone. What depends on sizes or data
(a store out of bounds, two iterations that store to one element) is the interpreter's to find.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from akg_dynamo.agents.sketch.ast import (
    Alloc,
    Assign,
    AxisDecl,
    Cast,
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
from akg_dynamo.agents.sketch.intexpr import apply_int, simplify, variables
from akg_dynamo.agents.sketch.ops import OPS, REDUCTIONS, SCANS, Rule
from akg_dynamo.core.errors import SketchError

LOOP_HINTS = (
    "parallel", "pipeline", "vectorize", "unroll", "once", "grididx", "threadidx", "coreidx", "warp", "simd",
)  # fmt: skip
ALLOC_HINTS = (
    "fastest", "fast", "medium", "slow", "accumulator", "input_cache", "output_buffer", "temp_workspace",
    "shared_between_threads", "init_zero", "no_init",
)  # fmt: skip
RESERVED = frozenset({"inf", "nan", "True", "False", "for", "in", "axis", *(d.value for d in DType)})
PRECISIONS = ("ieee", "tf32")

_LAUNCH_HINT = re.compile(r"(num_warps|num_stages)=[1-9]\d*\Z")
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*\Z")
_INT_RANGE = {
    DType.I64: (-(2**63), 2**63 - 1), DType.I32: (-(2**31), 2**31 - 1), DType.I16: (-(2**15), 2**15 - 1),
    DType.I8: (-128, 127), DType.U8: (0, 255),
}  # fmt: skip


@dataclass(frozen=True)
class TileType:
    """A tile's element type and the axes it varies over, outermost first. `dtype` None: a literal that has none yet."""

    dtype: DType | None
    axes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.dtype.value if self.dtype else 'a literal'} over [{', '.join(self.axes)}]"


def check(sketch: Sketch, *, fast_memory_bytes: int | None = None) -> None:
    """Returns if the sketch is well formed, raises `SketchError` with line and reason if not.

    fast_memory_bytes: when given, the named tiles in scope at any statement (full tiles; not those whose hints say
        "slow" or "medium") must fit into it.
    """
    _Checker(sketch, fast_memory_bytes).run()


def fits(value: float | int | bool, dtype: DType, *, exact: bool) -> bool:
    """Whether a literal can be of `dtype`. Not `exact`: 0.0 is an integer and 0 a bool, as in `init` and `other`."""
    if dtype is DType.BOOL:
        return isinstance(value, bool) or (not exact and value in (0, 1))
    if isinstance(value, bool):
        return False
    if dtype.is_float:
        return True
    if isinstance(value, float) and (exact or not math.isfinite(value) or value != int(value)):
        return False
    low, high = _INT_RANGE[dtype]
    return low <= value <= high


@dataclass
class _Tile:
    type: TileType
    depth: int
    bytes: int


class _Checker:
    def __init__(self, sketch: Sketch, fast_memory_bytes: int | None) -> None:
        self.sketch = sketch
        self.limit = fast_memory_bytes
        self.tensors: dict[str, TensorDecl] = {}
        self.constexprs = {c.name: c.value for c in sketch.constexprs}
        self.ints: dict[str, str] = {}
        """Integer names, with what each is: "symbol", "constexpr", "loop", "axis"."""
        self.varies: dict[str, frozenset[str]] = {}
        """For each loop variable and axis in scope: the loops whose variable its value follows."""
        self.axes: dict[str, str | int] = {}
        self.tiles: dict[str, _Tile] = {}
        self.gone: dict[str, str] = {}
        self.depth = 0
        self.loops: list[tuple[For, int]] = []
        self.stored: set[str] = set()
        self.line = 0
        self.place = ""

    def error(self, reason: str) -> SketchError:
        if self.line:
            return SketchError(reason, self.line)
        return SketchError(f"{reason} (in {self.place})" if self.place else reason)

    def run(self) -> None:
        self.declarations()
        for phase in self.sketch.body:
            self.stored |= {store.ref.name for store in _stores((phase,))}
            self.statement(phase)

    # ------------------------------------------------------------------------------------------------- declarations

    def declarations(self) -> None:
        self.place = "the declarations"
        self.identifier(self.sketch.name, "sketch")
        for name in self.sketch.symbols:
            self.place = f"symbol '{name}'"
            self.new_int(name, "symbol")
        for c in self.sketch.constexprs:
            self.line, self.place = c.line, f"constexpr '{c.name}'"
            self.new_int(c.name, "constexpr")
            for value in (c.value, *c.space):
                if value <= 0:
                    raise self.error(f"constexpr '{c.name}' must be positive, not {value}")
            if c.space and c.value not in c.space:
                raise self.error(f"constexpr '{c.name}' = {c.value} is not in its own search space")
        for t in self.sketch.tensors:
            self.line, self.place = t.line, f"tensor '{t.name}'"
            self.tensor(t)

    def tensor(self, t: TensorDecl) -> None:
        self.identifier(t.name, "tensor")
        if t.name in self.ints or t.name in self.tensors:
            raise self.error(f"'{t.name}' is declared twice")
        if t.kind not in ("in", "out", "tmp"):
            raise self.error(f"'{t.kind}' is not a kind of tensor: expected in, out or tmp")
        for d, size in enumerate(t.shape):
            self.int_expr(size)
            known = simplify(size)
            if isinstance(known, IntConst) and known.value < 0:
                raise self.error(f"dimension {d} of '{t.name}' has the negative size {known.value}")
        if t.strides is not None:
            if len(t.strides) != len(t.shape):
                raise self.error(f"'{t.name}' has {len(t.shape)} dimensions but {len(t.strides)} strides")
            for size, stride in zip(t.shape, t.strides, strict=True):
                self.int_expr(stride)
                if t.kind != "in" and simplify(stride) == IntConst(0) and simplify(size) != IntConst(1):
                    raise self.error(f"'{t.name}' is written, so its strides cannot be 0: elements would share storage")
        self.tensors[t.name] = t

    def identifier(self, name: str, what: str) -> None:
        if not _IDENTIFIER.match(name) or name in RESERVED:
            raise self.error(f"'{name}' cannot be the name of a {what}")

    def new_int(self, name: str, kind: str) -> None:
        self.identifier(name, kind)
        if name in self.ints:
            raise self.error(f"'{name}' already names a {self.ints[name]} here")
        if name in self.tensors or name in self.tiles:
            raise self.error(f"'{name}' already names a {'tensor' if name in self.tensors else 'tile'} here")
        self.ints[name] = kind

    # --------------------------------------------------------------------------------------------------- statements

    @contextmanager
    def body(self) -> Iterator[None]:
        """What is defined inside is gone afterwards: the loop may not have run, and axes end with their body."""
        outer_ints, outer_axes, outer_varies = dict(self.ints), dict(self.axes), dict(self.varies)
        self.depth += 1
        yield
        where = f"loop '{self.loops[-1][0].var}'"
        self.gone |= {n: where for n, t in self.tiles.items() if t.depth == self.depth}
        self.tiles = {n: t for n, t in self.tiles.items() if t.depth < self.depth}
        self.depth -= 1
        self.ints, self.axes, self.varies = outer_ints, outer_axes, outer_varies

    def statement(self, s: Stmt) -> None:
        self.line, self.place = s.line, _place(s)
        if isinstance(s, For):
            self.loop(s)
        elif isinstance(s, AxisDecl):
            self.axis(s)
        elif isinstance(s, Store):
            self.store(s)
        elif isinstance(s, Alloc):
            self.alloc(s)
        else:
            self.assign(s)

    def loop(self, s: For) -> None:
        self.bounds(s.start, s.stop)
        for hint in s.hints:
            if hint not in LOOP_HINTS and not _LAUNCH_HINT.match(hint):
                raise self.error(f"no loop hint '{hint}': expected some of {', '.join(LOOP_HINTS)}, num_warps=<n>")
        if not s.body:
            raise self.error(f"loop '{s.var}' has no body")
        self.loops.append((s, self.depth + 1))
        with self.body():
            if s.step is not None:
                self.lanes(s.step, "the step")
                self.axes[s.var] = s.step
            self.new_int(s.var, "loop" if s.step is None else "axis")
            self.varies[s.var] = self.following(s.start) | {s.var}
            for inner in s.body:
                self.statement(inner)
        self.loops.pop()

    def axis(self, s: AxisDecl) -> None:
        self.bounds(s.start, s.stop)
        size = self.lanes(s.size, "the size")
        extent = simplify(IntBin("-", s.stop, s.start))
        if isinstance(extent, IntConst) and extent.value > size:
            raise self.error(f"axis '{s.var}' has {extent.value} lanes, more than its size {size}")
        self.new_int(s.var, "axis")
        self.axes[s.var] = s.size
        self.varies[s.var] = self.following(s.start)

    def bounds(self, start: IntExpr, stop: IntExpr) -> None:
        self.int_expr(start)
        self.int_expr(stop)

    def lanes(self, size: str | int, what: str) -> int:
        """The number of lanes that a step or size stands for."""
        if isinstance(size, str):
            if size not in self.constexprs:
                raise self.error(f"{what} must be a constexpr or an integer, '{size}' is neither")
            return self.constexprs[size]
        if size <= 0:
            raise self.error(f"{what} must be positive, not {size}")
        return size

    def following(self, expr: IntExpr) -> frozenset[str]:
        return frozenset[str]().union(*(self.varies.get(v, frozenset()) for v in variables(expr)))

    def assign(self, s: Assign) -> None:
        got = self.expr(s.value)
        if got.dtype is None:
            raise self.error(f"the literal needs a dtype, such as f32({_literal_text(s.value)})")
        self.bind(s.name, got, fast=True)

    def alloc(self, s: Alloc) -> None:
        for axis in s.axes:
            self.axis_in_scope(axis)
        if len(set(s.axes)) != len(s.axes):
            raise self.error("an axis occurs twice in one tile")
        for hint in s.hints:
            if hint not in ALLOC_HINTS:
                raise self.error(f"no alloc hint '{hint}': expected some of {', '.join(ALLOC_HINTS)}")
        if not fits(s.init, s.dtype, exact=False):
            raise self.error(f"init {s.init} does not fit {s.dtype.value}")
        fast = not {"slow", "medium"} & set(s.hints)
        self.bind(s.name, TileType(s.dtype, self.ordered(set(s.axes))), fast=fast)

    def bind(self, name: str, got: TileType, *, fast: bool) -> None:
        self.identifier(name, "tile")
        if name in self.ints or name in self.tensors:
            raise self.error(f"'{name}' already names a {self.ints.get(name, 'tensor')} here, so it cannot name a tile")
        old = self.tiles.get(name)
        depth = self.depth
        if old is not None and old.depth < depth:
            for loop, level in self.loops:
                if loop.parallel and level > old.depth:
                    raise self.error(
                        f"'{name}' is defined outside the parallel loop '{loop.var}', so it cannot be assigned inside"
                    )
            if old.type != got:
                raise self.error(f"'{name}' is carried by a loop, so it must stay {old.type}; here it becomes {got}")
            depth = old.depth
        assert got.dtype is not None
        size = got.dtype.size_bytes * math.prod(self.lanes(self.axes[a], "the size") for a in got.axes)
        self.tiles[name] = _Tile(got, depth, size if fast and got.axes else 0)
        total = sum(t.bytes for t in self.tiles.values())
        if self.limit is not None and total > self.limit:
            raise self.error(f"the tiles in scope take {total} bytes, more than the {self.limit} of fast memory")

    def store(self, s: Store) -> None:
        value = self.expr(s.value)
        tensor, axes = self.access(s.ref)
        if tensor.kind == "in":
            raise self.error(f"'{tensor.name}' is an input: it cannot be stored to")
        if value.dtype is None:
            assert isinstance(s.value, Literal)
            self.literal(s.value, tensor.dtype)
        elif value.dtype is not tensor.dtype:
            raise self.error(f"'{tensor.name}' is {tensor.dtype.value}, the value is {value.dtype.value}: cast it")
        for axis in value.axes:
            if axis not in axes:
                raise self.error(f"the value varies over axis '{axis}', but the access {_ref_text(s.ref)} does not")
        self.independent(s)

    def independent(self, s: Store) -> None:
        """Every parallel loop around a store must move it."""
        follows: set[str] = set()
        for index in s.ref.indices:
            if isinstance(index, Gather):
                return  # where it goes depends on data
            if isinstance(index, Span):
                follows |= self.varies[index.axis] | self.following(index.shift)
            else:
                follows |= self.following(index.index)
        for loop, _ in self.loops:
            once = simplify(IntBin("-", loop.stop, loop.start))
            step = 1 if loop.step is None else self.lanes(loop.step, "the step")
            if loop.parallel and loop.var not in follows and not (isinstance(once, IntConst) and once.value <= step):
                raise self.error(
                    f"every iteration of the parallel loop '{loop.var}' stores to the same {_ref_text(s.ref)}"
                )

    # ------------------------------------------------------------------------------------------------------ accesses

    def access(self, ref: TensorRef) -> tuple[TensorDecl, set[str]]:
        tensor = self.tensors.get(ref.name)
        if tensor is None:
            raise self.error(f"no tensor '{ref.name}'")
        if len(ref.indices) != len(tensor.shape):
            raise self.error(f"'{ref.name}' has {len(tensor.shape)} dimensions, indexed with {len(ref.indices)}")
        axes: set[str] = set()
        for index in ref.indices:
            axes |= self.index(index)
        return tensor, axes

    def index(self, index: Index) -> set[str]:
        if isinstance(index, Span):
            self.axis_in_scope(index.axis)
            self.int_expr(index.shift)
            return {index.axis}
        if isinstance(index, Gather):
            got = self.name(index.tile)
            if got.dtype not in (DType.I64, DType.I32):
                raise self.error(
                    f"'{index.tile}' indexes a tensor, so it must be i64 or i32, not {got.dtype and got.dtype.value}"
                )
            return set(got.axes)
        if isinstance(index.index, IntVar) and index.index.name in self.axes:
            name = index.index.name
            raise self.error(f"'{name}' is an axis: index with the slice {name}:{name}+{self.axes[name]}")
        self.int_expr(index.index)
        return set()

    def int_expr(self, expr: IntExpr) -> None:
        if isinstance(expr, IntVar) and expr.name not in self.ints:
            if expr.name in self.tiles:
                raise self.error(
                    f"'{expr.name}' is a tile: an integer expression reads symbols, constexprs and loop variables"
                )
            raise self.error(f"no integer '{expr.name}' in scope")
        if isinstance(expr, IntBin):
            try:
                apply_int(expr.op, 1, 1)
            except ValueError as e:
                raise self.error(str(e)) from None
            if expr.op in ("//", "%") and simplify(expr.b) == IntConst(0):
                raise self.error("division by zero in an integer expression")
            self.int_expr(expr.a)
            self.int_expr(expr.b)

    def axis_in_scope(self, axis: str) -> None:
        if axis not in self.axes:
            what = (
                f"'{axis}' is a {self.ints[axis]}, not an axis" if axis in self.ints else f"no axis '{axis}' in scope"
            )
            raise self.error(f"{what}: an axis is a loop with a step, or declared by 'axis'")

    def ordered(self, axes: set[str]) -> tuple[str, ...]:
        return tuple(a for a in self.axes if a in axes)

    # --------------------------------------------------------------------------------------------- tile expressions

    def expr(self, e: TileExpr) -> TileType:
        if isinstance(e, Name):
            return self.name(e.name)
        if isinstance(e, Literal):
            if e.dtype is not None:
                self.literal(e, e.dtype)
            return TileType(e.dtype)
        if isinstance(e, IndexValue):
            self.int_expr(e.expr)
            return TileType(DType.I64)
        if isinstance(e, Lanes):
            self.axis_in_scope(e.axis)
            return TileType(DType.I64, (e.axis,))
        if isinstance(e, Load):
            return self.load(e)
        if isinstance(e, Op):
            return self.op(e)
        if isinstance(e, Cast):
            return TileType(e.dtype, self.expr(e.x).axes)
        if isinstance(e, Reduce):
            return self.reduce(e)
        if isinstance(e, Scan):
            return self.scan(e)
        return self.dot(e)

    def name(self, name: str) -> TileType:
        if name in self.tiles:
            return self.tiles[name].type
        if name in self.gone:
            raise self.error(
                f"'{name}' is defined only inside {self.gone[name]}: define it before the loop to carry it out"
            )
        if name in self.ints:
            raise self.error(f"'{name}' is a {self.ints[name]}, not a tile: write index({name})")
        if name in self.tensors:
            raise self.error(f"'{name}' is a tensor: read it with load({name}[…])")
        raise self.error(f"'{name}' is not defined")

    def literal(self, e: Literal, dtype: DType) -> None:
        if not fits(e.value, dtype, exact=True):
            raise self.error(f"the literal {_literal_text(e)} does not fit {dtype.value}")

    def load(self, e: Load) -> TileType:
        tensor, axes = self.access(e.ref)
        if tensor.kind != "in" and tensor.name not in self.stored:
            raise self.error(f"'{tensor.name}' is read before anything is stored to it")
        if not fits(e.other, tensor.dtype, exact=False):
            raise self.error(f"other={e.other} does not fit {tensor.dtype.value}")
        if e.where is not None:
            mask = self.expr(e.where)
            if mask.dtype is None:
                assert isinstance(e.where, Literal)
                self.literal(e.where, DType.BOOL)
            elif mask.dtype is not DType.BOOL:
                raise self.error(f"'where' of a load must be bool, not {mask.dtype.value}")
            axes |= set(mask.axes)
        return TileType(tensor.dtype, self.ordered(axes))

    def op(self, e: Op) -> TileType:
        info = OPS.get(e.name)
        if info is None:
            raise self.error(f"no operation '{e.name}'")
        if len(e.args) != info.arity:
            raise self.error(f"'{e.name}' takes {info.arity} operands, found {len(e.args)}")
        types = [self.expr(a) for a in e.args]
        axes = self.ordered({a for t in types for a in t.axes})
        args = list(zip(e.args, types, strict=True))
        if info.rule is Rule.SELECT:
            condition, found = args.pop(0)
            if found.dtype is None:
                assert isinstance(condition, Literal)
                self.literal(condition, DType.BOOL)
            elif found.dtype is not DType.BOOL:
                raise self.error(f"the condition of 'where' must be bool, not {found.dtype.value}")
        dtype = self.common(e.name, args)
        if not _allows(info.rule, dtype):
            raise self.error(f"'{e.name}' does not take {dtype.value} ({info.rule.value})")
        return TileType(DType.BOOL if info.rule in (Rule.COMPARE, Rule.TEST) else dtype, axes)

    def common(self, name: str, args: list[tuple[TileExpr, TileType]]) -> DType:
        """The one dtype of the operands; literals take it."""
        dtypes = {t.dtype for _, t in args if t.dtype is not None}
        if not dtypes:
            raise self.error(
                f"the operands of '{name}' are literals: give one a dtype, such as f32({_literal_text(args[0][0])})"
            )
        if len(dtypes) > 1:
            names = " and ".join(sorted(d.value for d in dtypes))
            raise self.error(f"'{name}' mixes {names}: cast one of them")
        dtype = dtypes.pop()
        for arg, found in args:
            if found.dtype is None:
                assert isinstance(arg, Literal)
                self.literal(arg, dtype)
        return dtype

    def operand(self, what: str, e: TileExpr, axis: str) -> tuple[DType, tuple[str, ...]]:
        self.axis_in_scope(axis)
        found = self.expr(e)
        if axis not in found.axes or found.dtype is None:
            raise self.error(f"the operand of '{what}' does not vary over axis '{axis}'")
        return found.dtype, tuple(a for a in found.axes if a != axis)

    def reduce(self, e: Reduce) -> TileType:
        what = f"reduce_{e.op}"
        if e.op not in REDUCTIONS:
            raise self.error(f"no reduction '{e.op}'")
        dtype, axes = self.operand(what, e.x, e.axis)
        if (e.op in ("any", "all")) is not (dtype is DType.BOOL) and e.op not in ("max", "min"):
            raise self.error(f"'{what}' does not take {dtype.value}")
        return TileType(DType.I64 if e.op.startswith("arg") else dtype, axes)

    def scan(self, e: Scan) -> TileType:
        what = f"scan_{e.op}"
        if e.op not in SCANS:
            raise self.error(f"no scan '{e.op}'")
        dtype, axes = self.operand(what, e.x, e.axis)
        if dtype is DType.BOOL and e.op in ("sum", "prod"):
            raise self.error(f"'{what}' does not take bool")
        return TileType(dtype, self.ordered({*axes, e.axis}))

    def dot(self, e: Dot) -> TileType:
        if e.precision not in PRECISIONS:
            raise self.error(f"no precision '{e.precision}': expected one of {', '.join(PRECISIONS)}")
        a, a_axes = self.operand("dot", e.a, e.axis)
        b, b_axes = self.operand("dot", e.b, e.axis)
        if a is not b:
            raise self.error(f"'dot' mixes {a.value} and {b.value}: cast one of them")
        if not a.is_float:
            raise self.error(f"'dot' does not take {a.value}")
        return TileType(DType.F64 if a is DType.F64 else DType.F32, self.ordered({*a_axes, *b_axes}))


def _allows(rule: Rule, dtype: DType) -> bool:
    if rule is Rule.ARITH:
        return dtype is not DType.BOOL
    if rule in (Rule.FLOAT, Rule.TEST):
        return dtype.is_float
    if rule is Rule.INT:
        return dtype.is_int
    if rule is Rule.BITS:
        return not dtype.is_float
    if rule is Rule.INDEX:
        return dtype is DType.I64
    return True


def _stores(body: tuple[Stmt, ...]) -> Iterator[Store]:
    for s in body:
        if isinstance(s, Store):
            yield s
        elif isinstance(s, For):
            yield from _stores(s.body)


def _place(s: Stmt) -> str:
    if isinstance(s, For):
        return f"loop '{s.var}'"
    if isinstance(s, AxisDecl):
        return f"axis '{s.var}'"
    if isinstance(s, Store):
        return f"a store to '{s.ref.name}'"
    return f"the assignment to '{s.name}'"


def _literal_text(e: TileExpr) -> str:
    return str(e.value) if isinstance(e, Literal) else "…"


def _ref_text(ref: TensorRef) -> str:
    parts = [i.axis if isinstance(i, Span) else i.tile if isinstance(i, Gather) else "…" for i in ref.indices]
    return f"{ref.name}[{', '.join(parts)}]"


__all__ = ["ALLOC_HINTS", "LOOP_HINTS", "PRECISIONS", "RESERVED", "TileType", "check", "fits"]
