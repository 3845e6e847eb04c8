"""What a lowering works on: the sketch's tile expressions as typed, shared values, in blocks that follow the loops.

`build(sketch)` resolves names. A name that only straight-line code rebinds disappears into values; a name that a nested
loop assigns becomes a `Variable`, read and set explicitly. Equal expressions become one `Value`, so nothing is computed
twice. A `Block` is a list of `Segment`s (straight-line work without memory hazards inside) and `Loop`s.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from akg_dynamo.agents.sketch import ast as sk
from akg_dynamo.agents.sketch.ast import DType
from akg_dynamo.agents.sketch.ops import OPS, Rule
from akg_dynamo.core.errors import LoweringError


@dataclass(eq=False)
class Axis:
    """Lanes `start .. min(start + size, stop) - 1`. `order`: where it was declared; outer axes come first."""

    name: str
    start: sk.IntExpr
    stop: sk.IntExpr
    size: int
    order: int
    c_name: str


@dataclass(eq=False)
class Variable:
    """A named tile or scalar that loops update."""

    c_name: str
    dtype: DType
    axes: tuple[Axis, ...]


@dataclass(frozen=True)
class IndexAt:
    """A scalar index."""

    expr: sk.IntExpr


@dataclass(frozen=True)
class IndexSpan:
    """The lanes of an axis plus a shift."""

    axis: Axis
    shift: sk.IntExpr


@dataclass(frozen=True)
class IndexGather:
    """Indices held in a tile."""

    tile: Value


Index: TypeAlias = "IndexAt | IndexSpan | IndexGather"


@dataclass(frozen=True)
class Access:
    """Elements of a tensor, one index per dimension."""

    tensor: sk.TensorDecl
    indices: tuple[Index, ...]

    @property
    def gathers(self) -> tuple[Value, ...]:
        """The index tiles."""
        return tuple(i.tile for i in self.indices if isinstance(i, IndexGather))


@dataclass(eq=False)
class Value:
    """One tile-valued expression. Ids grow in program order, so that operands have smaller ids.

    kind: literal index lanes load op cast reduce scan dot variable. `name` is the operation's; `data` is what is
    particular to a kind: the literal, the `IntExpr`, the `Axis`, the `Access` and `other`, the `Variable`.
    """

    id: int
    kind: str
    dtype: DType
    axes: tuple[Axis, ...]
    args: tuple[Value, ...] = ()
    name: str = ""
    axis: Axis | None = None
    data: object = None
    access: Access | None = None
    masked: bool = False
    home: Segment | None = field(default=None, repr=False)
    hint: str = ""


@dataclass(eq=False)
class StoreTo:
    """A sink: writes a value to a tensor."""

    value: Value
    access: Access
    axes: tuple[Axis, ...]
    id: int
    last: bool  # overwrites what this segment loaded: comes after everything else


@dataclass(eq=False)
class SetVariable:
    """A sink: updates a variable."""

    variable: Variable
    value: Value
    id: int

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The variable's."""
        return self.variable.axes


@dataclass(eq=False)
class Segment:
    """Straight-line work: `sinks` in program order; a `Value` among them is a reduce, scan or dot, or one to keep."""

    sinks: list[StoreTo | SetVariable | Value] = field(default_factory=list)
    loads: dict[str, Access] = field(default_factory=dict)
    stores: set[str] = field(default_factory=set)


@dataclass(eq=False)
class Loop:
    """A loop of the sketch. `axis` is None for a scalar loop."""

    source: sk.For
    axis: Axis | None
    block: Block


@dataclass(eq=False)
class Block:
    """The body of a loop, or the whole sketch. `variables` are declared at its start, with their initial values."""

    items: list[Segment | Loop] = field(default_factory=list)
    axes: list[Axis] = field(default_factory=list)
    declared: list[Variable] = field(default_factory=list)


@dataclass
class Program:
    """The whole sketch."""

    sketch: sk.Sketch
    block: Block
    constexprs: dict[str, int]
    values: list[Value]


def axis_key(axis: Axis) -> int:
    """For sorting."""
    return axis.order


def union_axes(*groups: tuple[Axis, ...]) -> tuple[Axis, ...]:
    """Every axis that occurs, outermost first."""
    return tuple(sorted(set(itertools.chain(*groups)), key=axis_key))


def access_axes(access: Access) -> tuple[Axis, ...]:
    """The axes an access varies over."""
    found: list[tuple[Axis, ...]] = []
    for index in access.indices:
        if isinstance(index, IndexSpan):
            found.append((index.axis,))
        elif isinstance(index, IndexGather):
            found.append(index.tile.axes)
    return union_axes(*found)


class _Scope:
    def __init__(self, parent: _Scope | None, block: Block) -> None:
        self.parent = parent
        self.block = block
        self.names: dict[str, Value | Variable] = {}
        self.axes: dict[str, Axis] = {}
        self.carried: dict[str, Variable] = {}  # what this body has assigned and not yet written back
        self.shared: dict[object, Value] = {}

    def axis(self, name: str) -> Axis:
        scope: _Scope | None = self
        while scope is not None:
            if name in scope.axes:
                return scope.axes[name]
            scope = scope.parent
        raise LoweringError(f"no axis named {name!r} in scope")

    def lookup(self, name: str) -> tuple[_Scope, Value | Variable]:
        scope: _Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope, scope.names[name]
            scope = scope.parent
        raise LoweringError(f"no tile named {name!r} in scope")


def _assigned(body: tuple[sk.Stmt, ...]) -> Iterator[str]:
    for stmt in body:
        if isinstance(stmt, sk.Assign | sk.Alloc):
            yield stmt.name
        elif isinstance(stmt, sk.For):
            yield from _assigned(stmt.body)


class _Builder:
    def __init__(self, sketch: sk.Sketch, keep_dots: bool) -> None:
        self.sketch = sketch
        self.keep_dots = keep_dots
        self.tensors = {t.name: t for t in sketch.tensors}
        self.constexprs = {c.name: c.value for c in sketch.constexprs}
        self.values: list[Value] = []
        self.orders = itertools.count()
        self.taken: dict[str, int] = {}

    def build(self) -> Program:
        scope = _Scope(None, Block())
        self._body(self.sketch.body, scope)
        return Program(self.sketch, scope.block, self.constexprs, self.values)

    def _size(self, step: str | int) -> int:
        return self.constexprs[step] if isinstance(step, str) else step

    def _fresh(self, name: str) -> str:
        count = self.taken.get(name, 0)
        self.taken[name] = count + 1
        return f"{name}_{count}" if count else name

    def _axis(self, name: str, start: sk.IntExpr, stop: sk.IntExpr, size: str | int) -> Axis:
        return Axis(name, start, stop, self._size(size), next(self.orders), name)

    def _segment(self, scope: _Scope) -> Segment:
        items = scope.block.items
        if not items or not isinstance(items[-1], Segment):
            items.append(Segment())
        segment = items[-1]
        assert isinstance(segment, Segment)
        return segment

    def _break(self, scope: _Scope) -> None:
        scope.block.items.append(Segment())
        scope.shared = {k: v for k, v in scope.shared.items() if not self._reads_memory(v)}

    @staticmethod
    def _reads_memory(value: Value) -> bool:
        return value.kind == "load"

    # -- statements

    def _body(self, body: tuple[sk.Stmt, ...], scope: _Scope) -> None:
        for stmt in body:
            if isinstance(stmt, sk.AxisDecl):
                axis = self._axis(stmt.var, stmt.start, stmt.stop, stmt.size)
                scope.axes[stmt.var] = axis
                scope.block.axes.append(axis)
                self._segment(scope)
            elif isinstance(stmt, sk.Alloc):
                axes = union_axes(tuple(scope.axis(a) for a in stmt.axes))
                value = self._make(scope, "literal", stmt.dtype, axes, data=stmt.init)
                self._define(stmt.name, value, scope)
            elif isinstance(stmt, sk.Assign):
                self._define(stmt.name, self._expr(stmt.value, scope), scope)
            elif isinstance(stmt, sk.Store):
                self._store(stmt, scope)
            else:
                self._for(stmt, scope)

    def _define(self, name: str, value: Value, scope: _Scope) -> None:
        if not value.hint:
            value.hint = name
        holder: _Scope | None = scope
        while holder is not None and name not in holder.names:
            holder = holder.parent
        if holder is None or holder is scope:
            if name not in scope.carried:
                # A variable of this very body becomes a plain value; the next loop that assigns it declares it anew.
                scope.names[name] = value
                return
            holder = scope.parent
            while holder is not None and name not in holder.names:
                holder = holder.parent
            assert holder is not None
        bound = holder.names[name]
        if not isinstance(bound, Variable):
            raise LoweringError(f"{name!r} is assigned in a loop but was not declared as carried")
        # Until the end of this body the name is the value itself; `_flush` writes it back.
        if value.dtype is not bound.dtype or not set(value.axes) <= set(bound.axes):
            raise LoweringError(f"{name!r} changes its dtype or axes inside a loop")
        scope.names[name] = value
        scope.carried[name] = bound

    def _flush(self, scope: _Scope, names: set[str] | None = None) -> None:
        carried = scope.carried
        for name, variable in list(carried.items()):
            if names is not None and name not in names:
                continue
            value = scope.names[name]
            if isinstance(value, Value):
                if not (value.kind == "variable" and value.data is variable):
                    self._segment(scope).sinks.append(SetVariable(variable, value, len(self.values)))
                del scope.names[name]
            del carried[name]

    def _for(self, stmt: sk.For, scope: _Scope) -> None:
        inner_names = set(_assigned(stmt.body))
        carried_here = scope.carried
        for name in sorted(inner_names):
            # Names of this body that the loop assigns become variables with the current value.
            if name in scope.names and name not in carried_here:
                value = scope.names[name]
                if isinstance(value, Value):
                    axes = value.axes
                    variable = Variable(self._fresh(name), value.dtype, axes)
                    scope.names[name] = variable
                    scope.block.declared.append(variable)
                    self._segment(scope).sinks.append(SetVariable(variable, value, len(self.values)))
        self._flush(scope, inner_names)
        block = Block()
        inner = _Scope(scope, block)
        axis = None
        if stmt.step is not None:
            axis = self._axis(stmt.var, stmt.start, stmt.stop, stmt.step)
            inner.axes[stmt.var] = axis
        block.items.append(Segment())
        self._body(stmt.body, inner)
        self._flush(inner)
        scope.block.items.append(Loop(stmt, axis, block))
        scope.block.items.append(Segment())
        # Its variables have new values, and memory may have changed.
        holder: _Scope | None = scope
        while holder is not None:
            holder.shared = {}
            holder = holder.parent

    def _store(self, stmt: sk.Store, scope: _Scope) -> None:
        access = self._access(stmt.ref, scope)
        value = self._expr(stmt.value, scope, access.tensor.dtype)
        segment = self._segment(scope)
        name = access.tensor.name
        before = segment.loads.get(name)
        if name in segment.stores or (before is not None and before != access):
            self._break(scope)
            segment = self._segment(scope)
        segment.stores.add(name)
        axes = union_axes(access_axes(access), value.axes)
        if value.axes and not set(value.axes) <= set(access_axes(access)):
            raise LoweringError(f"the value stored to {name!r} has axes that the access lacks")
        segment.sinks.append(StoreTo(value, access, axes, len(self.values), before is not None))
        if before is not None:
            self._break(scope)

    # -- expressions

    def _make(
        self,
        scope: _Scope,
        kind: str,
        dtype: DType,
        axes: tuple[Axis, ...],
        args: tuple[Value, ...] = (),
        *,
        name: str = "",
        axis: Axis | None = None,
        data: object = None,
        access: Access | None = None,
        masked: bool = False,
    ) -> Value:
        key = (
            kind,
            dtype,
            axes,
            args,
            name,
            axis,
            type(data),
            repr(data) if kind == "literal" else data,
            access,
            masked,
        )
        segment = self._segment(scope)
        found = scope.shared.get(key)
        if found is not None:
            return found
        value = Value(len(self.values), kind, dtype, axes, args, name, axis, data, access, masked, segment)
        self.values.append(value)
        scope.shared[key] = value
        if kind in ("reduce", "scan", "dot"):
            segment.sinks.append(value)
        return value

    def _access(self, ref: sk.TensorRef, scope: _Scope) -> Access:
        if ref.name not in self.tensors:
            raise LoweringError(f"no tensor named {ref.name!r}")
        decl = self.tensors[ref.name]
        indices: list[Index] = []
        for index in ref.indices:
            if isinstance(index, sk.At):
                indices.append(IndexAt(index.index))
            elif isinstance(index, sk.Span):
                indices.append(IndexSpan(scope.axis(index.axis), index.shift))
            else:
                indices.append(IndexGather(self._read(index.tile, scope)))
        return Access(decl, tuple(indices))

    def _read(self, name: str, scope: _Scope) -> Value:
        _, bound = scope.lookup(name)
        if isinstance(bound, Variable):
            return self._make(scope, "variable", bound.dtype, bound.axes, data=bound)
        return bound

    def _literal(self, expr: sk.Literal, dtype: DType | None, scope: _Scope) -> Value:
        chosen = expr.dtype or dtype
        if chosen is None:
            chosen = (
                DType.BOOL if isinstance(expr.value, bool) else DType.I64 if isinstance(expr.value, int) else DType.F32
            )
        return self._make(scope, "literal", chosen, (), data=expr.value)

    def _expr(self, expr: sk.TileExpr, scope: _Scope, want: DType | None = None) -> Value:
        if isinstance(expr, sk.Name):
            return self._read(expr.name, scope)
        if isinstance(expr, sk.Literal):
            return self._literal(expr, want, scope)
        if isinstance(expr, sk.IndexValue):
            return self._make(scope, "index", DType.I64, (), data=expr.expr)
        if isinstance(expr, sk.Lanes):
            axis = scope.axis(expr.axis)
            return self._make(scope, "lanes", DType.I64, (axis,), axis=axis)
        if isinstance(expr, sk.Load):
            return self._load(expr, scope)
        if isinstance(expr, sk.Op):
            return self._op(expr, scope, want)
        if isinstance(expr, sk.Cast):
            x = self._expr(expr.x, scope)
            return x if x.dtype is expr.dtype else self._make(scope, "cast", expr.dtype, x.axes, (x,))
        if isinstance(expr, sk.Dot):
            return self._dot(expr, scope)
        x = self._expr(expr.x, scope)
        axis = scope.axis(expr.axis)
        if axis not in x.axes:
            # Every live lane holds the same value: spread it, so that sums count it once per lane.
            x = self._make(scope, "op", x.dtype, union_axes(x.axes, (axis,)), (x,), name="spread")
        if isinstance(expr, sk.Scan):
            return self._make(scope, "scan", x.dtype, x.axes, (x,), name=expr.op, axis=axis)
        dtype = DType.I64 if expr.op.startswith("arg") else DType.BOOL if expr.op in ("any", "all") else x.dtype
        axes = tuple(a for a in x.axes if a is not axis)
        return self._make(scope, "reduce", dtype, axes, (x,), name=expr.op, axis=axis)

    def _load(self, expr: sk.Load, scope: _Scope) -> Value:
        access = self._access(expr.ref, scope)
        args = access.gathers
        masked = expr.where is not None
        if expr.where is not None:
            args = (*args, self._expr(expr.where, scope, DType.BOOL))
        axes = union_axes(access_axes(access), *(a.axes for a in args))
        segment = self._segment(scope)
        name = access.tensor.name
        if name in segment.stores:
            self._break(scope)
            segment = self._segment(scope)
        if name in segment.loads and segment.loads[name] != access:
            segment.loads[name] = Access(access.tensor, ())  # more than one place: no store may be fused with it
        else:
            segment.loads[name] = access
        return self._make(scope, "load", access.tensor.dtype, axes, args, data=expr.other, access=access, masked=masked)

    def _op(self, expr: sk.Op, scope: _Scope, want: DType | None) -> Value:
        info = OPS[expr.name]
        operands = list(expr.args)
        values: list[Value | None] = [None] * len(operands)
        first = 1 if info.rule is Rule.SELECT else 0
        dtype: DType | None = None
        for i, operand in enumerate(operands):
            if isinstance(operand, sk.Literal) and operand.dtype is None:
                continue
            values[i] = self._expr(operand, scope, DType.BOOL if i < first else None)
            if i >= first and dtype is None:
                found = values[i]
                assert found is not None
                dtype = found.dtype
        if dtype is None and info.rule not in (Rule.COMPARE, Rule.TEST):
            dtype = want
        if dtype is None and any(isinstance(o, sk.Literal) and isinstance(o.value, float) for o in operands[first:]):
            dtype = DType.F32
        args: list[Value] = []
        for i, operand in enumerate(operands):
            value = values[i]
            if value is None:
                assert isinstance(operand, sk.Literal)
                value = self._literal(operand, DType.BOOL if i < first else dtype, scope)
                dtype = dtype or value.dtype
            args.append(value)
        assert dtype is not None
        if any(a.dtype is not dtype for a in args[first:]):
            raise LoweringError(f"{expr.name} mixes dtypes: {', '.join(a.dtype.value for a in args)}")
        out = DType.BOOL if info.rule in (Rule.COMPARE, Rule.TEST) else dtype
        axes = union_axes(*(a.axes for a in args))
        return self._make(scope, "op", out, axes, tuple(args), name=expr.name)

    def _dot(self, expr: sk.Dot, scope: _Scope) -> Value:
        axis = scope.axis(expr.axis)
        wide = [self._expr(e, scope) for e in (expr.a, expr.b)]
        out = DType.F64 if wide[0].dtype is DType.F64 else DType.F32
        if self.keep_dots and all(axis in v.axes for v in wide):
            axes = tuple(x for x in union_axes(*(v.axes for v in wide)) if x is not axis)
            return self._make(scope, "dot", out, axes, tuple(wide), name=expr.precision, axis=axis)
        a, b = (v if v.dtype is out else self._make(scope, "cast", out, v.axes, (v,)) for v in wide)
        product = self._make(scope, "op", out, union_axes(a.axes, b.axes, (axis,)), (a, b), name="mul")
        axes = tuple(x for x in product.axes if x is not axis)
        return self._make(scope, "reduce", out, axes, (product,), name="sum", axis=axis)


def build(sketch: sk.Sketch, *, keep_dots: bool = False) -> Program:
    """Names resolved, expressions shared and typed. LoweringError if the sketch is not well formed after all.

    keep_dots: a dot stays one value, for a target that has matrix units; otherwise it becomes products and their sum.
    """
    return _Builder(sketch, keep_dots).build()
