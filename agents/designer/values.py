"""A small arithmetic on primitive values, in which decompositions read like the formulas they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

from akg_dynamo.agents.designer import prims
from akg_dynamo.agents.designer.prims import Number, Prim, Shape
from akg_dynamo.agents.designer.sizes import Poly, Size, product
from akg_dynamo.agents.sketch.ast import DType

Operand: TypeAlias = "V | Number | Poly"

_FEW_TERMS = 16


class V:
    """A value with operators: operands broadcast and agree in dtype; numbers take the value's."""

    __slots__ = ("prim",)
    __hash__ = None  # type: ignore[assignment]  # == compares elements

    def __init__(self, prim: Prim) -> None:
        self.prim = prim

    @property
    def shape(self) -> Shape:
        """Its dims."""
        return self.prim.shape

    @property
    def dtype(self) -> DType:
        """Its compute dtype."""
        return self.prim.dtype

    @property
    def is_float(self) -> bool:
        """Whether it is a floating-point value."""
        return self.prim.dtype.is_float

    def to(self, dtype: DType) -> V:
        """Converted."""
        return V(prims.cast(self.prim, dtype))

    def expand(self, shape: Sequence[Size]) -> V:
        """Broadcast to a shape."""
        return V(prims.expand(self.prim, shape))

    def reshape(self, shape: Sequence[Size]) -> V:
        """The same elements under another shape."""
        return V(prims.reshape(self.prim, shape))

    def permute(self, dims: Sequence[int]) -> V:
        """Dims reordered."""
        return V(prims.permute(self.prim, dims))

    def slice(self, dim: int, start: Size, size: Size, step: Size = 1) -> V:
        """Part of a dim."""
        return V(prims.slice_(self.prim, dim, start, size, step))

    def reduce(self, op: str, dims: Sequence[int], keep: bool = False) -> V:
        """Reduced over dims."""
        if op in ("max", "min") and self.dtype is DType.BOOL:
            op = "any" if op == "max" else "all"
        if dims:
            result = V(prims.reduce(op, self.prim, dims))
        else:
            result = self.like(0, DType.I64) if op.startswith("arg") else self
        return result._kept(self, dims) if keep else result

    def _kept(self, reduced: V, dims: Sequence[int]) -> V:
        """A reduction's result with the reduced dims as 1."""
        return self.reshape([1 if d in dims else s for d, s in enumerate(reduced.shape)])

    def _total(self, dims: Sequence[int]) -> V:
        """A sum in the dtype its partial sums are added up in: f64 for f32, unless there are few terms."""
        terms = product(self.shape[d] for d in dims)
        if self.dtype is not DType.F32 or not dims or (isinstance(terms, int) and terms <= _FEW_TERMS):
            return self.reduce("sum", dims)
        return V(prims.reduce("sum", self.prim, dims, DType.F64))

    def sum(self, dims: Sequence[int], keep: bool = False) -> V:
        """Summed over dims."""
        result = self._total(dims).to(self.dtype)
        return result._kept(self, dims) if keep else result

    def count(self, dims: Sequence[int]) -> V:
        """How many elements a reduction over dims takes, as a 0-dim value of this dtype."""
        return V(prims.size_value(product(self.shape[d] for d in dims), self.dtype))

    def mean(self, dims: Sequence[int], keep: bool = False) -> V:
        """The mean over dims."""
        return self.share(dims, self.count(dims), keep)

    def share(self, dims: Sequence[int], count: V, keep: bool = False) -> V:
        """The sum over dims divided by a 0-dim count, rounded once."""
        total = self._total(dims)
        result = (total / count.to(total.dtype)).to(self.dtype)
        return result._kept(self, dims) if keep else result

    def like(self, value: Number, dtype: DType | None = None) -> V:
        """A constant of this shape."""
        return V(prims.const(value, dtype or self.dtype, self.shape))

    def op(self, name: str, *others: Operand, boolean: bool = False) -> V:
        """A sketch operation with this as the first operand."""
        return apply(name, self, *others, boolean=boolean)

    def __add__(self, o: Operand) -> V:
        return self.op("add", o)

    def __radd__(self, o: Operand) -> V:
        return apply("add", o, self)

    def __sub__(self, o: Operand) -> V:
        return self.op("sub", o)

    def __rsub__(self, o: Operand) -> V:
        return apply("sub", o, self)

    def __mul__(self, o: Operand) -> V:
        return self.op("mul", o)

    def __rmul__(self, o: Operand) -> V:
        return apply("mul", o, self)

    def __truediv__(self, o: Operand) -> V:
        return self.op("div", o)

    def __rtruediv__(self, o: Operand) -> V:
        return apply("div", o, self)

    def __neg__(self) -> V:
        return self.op("neg")

    def __and__(self, o: Operand) -> V:
        return self.op("and", o)

    def __or__(self, o: Operand) -> V:
        return self.op("or", o)

    def __invert__(self) -> V:
        return self.op("not")

    def __lt__(self, o: Operand) -> V:
        return self.op("lt", o, boolean=True)

    def __le__(self, o: Operand) -> V:
        return self.op("le", o, boolean=True)

    def __gt__(self, o: Operand) -> V:
        return self.op("gt", o, boolean=True)

    def __ge__(self, o: Operand) -> V:
        return self.op("ge", o, boolean=True)

    def eq(self, o: Operand) -> V:
        """Elementwise equality."""
        return self.op("eq", o, boolean=True)

    def ne(self, o: Operand) -> V:
        """Elementwise inequality."""
        return self.op("ne", o, boolean=True)

    def test(self, name: str) -> V:
        """isnan, isinf or signbit."""
        return self.op(name, boolean=True)


def broadcast_shape(shapes: Sequence[Shape]) -> Shape:
    """The shape that shapes broadcast to."""
    rank = max(map(len, shapes))
    result: list[Size] = []
    for d in range(rank):
        sizes = [s[d - rank + len(s)] for s in shapes if d - rank + len(s) >= 0]
        result.append(next((s for s in sizes if s != 1), 1))
    return tuple(result)


def value_of(x: Operand, dtype: DType) -> V:
    """An operand as a value."""
    if isinstance(x, V):
        return x
    if isinstance(x, Poly):
        return V(prims.size_value(x, dtype))
    return V(prims.const(x, dtype))


def apply(name: str, *operands: Operand, boolean: bool = False) -> V:
    """A sketch operation; the dtype of numbers is that of the values among the operands."""
    dtype = next(o.dtype for o in operands if isinstance(o, V))
    return _apply(name, [value_of(o, dtype) for o in operands], DType.BOOL if boolean else None)


def _apply(name: str, values: list[V], dtype: DType | None = None) -> V:
    shape = broadcast_shape([v.shape for v in values])
    return V(prims.apply(name, [v.expand(shape).prim for v in values], dtype))


def where(condition: V, a: Operand, b: Operand) -> V:
    """a where the condition holds, else b; at least one of them is a value."""
    dtype = next(o.dtype for o in (a, b) if isinstance(o, V))
    return _apply("where", [condition, value_of(a, dtype), value_of(b, dtype)])


def number(value: Number, dtype: DType, shape: Sequence[Size] = ()) -> V:
    """A constant."""
    return V(prims.const(value, dtype, shape))


def full(value: Operand, dtype: DType, shape: Sequence[Size]) -> V:
    """A constant or a size, everywhere."""
    return value_of(value, dtype).to(dtype).expand(shape)


def iota(shape: Sequence[Size], dim: int) -> V:
    """The index along a dim."""
    return V(prims.iota(shape, dim))


def checked(index: V, size: Size) -> V:
    """An i64 position that the user gave, which must be in 0 <= index < size: the kernel says so where it is not."""
    return apply("checked", index, V(prims.size_value(size, DType.I64)))


def take(x: V, sources: Sequence[int | V], shape: Sequence[Size]) -> V:
    """x at the result's index number, or at an integer value, per dim of x."""
    return V(prims.take(x.prim, [s if isinstance(s, int) else s.expand(shape).prim for s in sources], shape))


def cat(xs: Sequence[V], dim: int) -> V:
    """Concatenation."""
    return V(prims.cat([x.prim for x in xs], dim))


def pad(x: V, before: Sequence[Size], shape: Sequence[Size], value: Number = 0) -> V:
    """x in a frame."""
    return V(prims.pad(x.prim, before, shape, _number_of(value, x.dtype)))


def tap(x: V, slides: Sequence[prims.Slide], shape: Sequence[Size], value: Number) -> V:
    """x at one place of a window, for each position of the window; `value` where that is outside x."""
    return V(prims.tap(x.prim, slides, shape, _number_of(value, x.dtype)))


def _number_of(value: Number, dtype: DType) -> Number:
    return bool(value) if dtype is DType.BOOL else int(value) if dtype.is_int else float(value)


def fn(name: str, x: V) -> V:
    """A unary sketch operation."""
    return x.op(name)


def exp(x: V) -> V:
    """e**x."""
    return x.op("exp")


def log(x: V) -> V:
    """The natural logarithm."""
    return x.op("log")


def sqrt(x: V) -> V:
    """The square root."""
    return x.op("sqrt")


def rsqrt(x: V) -> V:
    """1 / sqrt(x), at full precision."""
    return 1.0 / x.op("sqrt")


def sigmoid(x: V) -> V:
    """1 / (1 + exp(-x))."""
    return x.op("sigmoid")


def tanh(x: V) -> V:
    """The hyperbolic tangent."""
    return x.op("tanh")


def maximum(a: V, b: Operand) -> V:
    """The larger; NaN wins."""
    return a.op("maximum", b)


def minimum(a: V, b: Operand) -> V:
    """The smaller; NaN wins."""
    return a.op("minimum", b)


INF = math.inf
