"""Primitive values: what a subgraph is decomposed into before anything is scheduled.

A `Prim` is a whole tensor value, described by how one element of it is computed. There are few kinds, and none of them
is an ATen operator any more:

    mem      a tensor in memory: an input, or scratch that an earlier phase wrote
    const    one number for every element; `size`: the same for an integer that is a size
    iota     the index along one dim
    op       a sketch operation, elementwise on operands of the same shape
    cast     dtype conversion
    reduce   a reduction over some dims, which disappear
    view     expand, permute, reshape or slice: only where an element is read from
    take     a gather: some dims of the operand are indexed by integer values
    cat      concatenation along a dim; `pad`: the operand inside a frame of a constant
    tap      one place of a window that slides over the operand: for each position of the window, the element there

f16 and bf16 exist only in memory: a value of theirs is held in f32 and rounded where it is stored, or where eager would
store it (`as_stored`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from akg_dynamo.agents.designer.sizes import Size, product
from akg_dynamo.agents.sketch.ast import DType
from akg_dynamo.agents.sketch.numerics import numpy_dtype

Shape: TypeAlias = "tuple[Size, ...]"
Number: TypeAlias = "bool | int | float"


@dataclass(frozen=True, eq=False)
class Storage:
    """A tensor in memory. `kind`: "in" (the index-th input), "out" (output) or "tmp" (scratch)."""

    kind: str
    index: int
    dtype: DType
    shape: Shape
    strides: Shape
    name: str = ""


@dataclass(frozen=True)
class Slide:
    """Along one dim, a tap at position i reads element i * step + start. below, above: which may lie outside there."""

    step: int
    start: int
    below: bool
    above: bool


STILL = Slide(1, 0, below=False, above=False)
"""Along the dims that a window does not slide over."""


@dataclass(frozen=True, eq=False)
class Prim:
    """One value. Compared by identity; `attr` depends on the kind (see the constructors below)."""

    kind: str
    shape: Shape
    dtype: DType
    args: tuple[Prim, ...] = ()
    attr: Any = None
    depth: int = field(default=0)


def compute_dtype(memory: DType) -> DType:
    """The dtype a value of this memory dtype is held in."""
    return DType.F32 if memory in (DType.F16, DType.BF16) else memory


def contiguous_strides(shape: Shape) -> Shape:
    """Row-major strides."""
    return tuple(product(shape[d + 1 :]) for d in range(len(shape)))


def _prim(kind: str, shape: Sequence[Size], dtype: DType, args: Sequence[Prim] = (), attr: Any = None) -> Prim:
    return Prim(kind, tuple(shape), dtype, tuple(args), attr, 1 + max((a.depth for a in args), default=0))


def mem(storage: Storage) -> Prim:
    """The value of a tensor in memory, in its compute dtype."""
    return _prim("mem", storage.shape, compute_dtype(storage.dtype), attr=storage)


def const(value: Number, dtype: DType, shape: Sequence[Size] = ()) -> Prim:
    """One number everywhere, converted as torch converts a Python number."""
    if dtype is DType.BOOL:
        value = bool(value)
    elif dtype.is_int:
        bits = 8 * dtype.size_bytes  # numbers wrap, as torch's do
        value = int(value) % (1 << bits)
        if dtype is not DType.U8 and value >= 1 << (bits - 1):
            value -= 1 << bits
    else:
        value = float(value)
    return _prim("const", shape, dtype, attr=value)


def size_value(size: Size, dtype: DType, shape: Sequence[Size] = ()) -> Prim:
    """A size as a number."""
    whole = _prim("size", shape, DType.I64, attr=size)
    return whole if dtype is DType.I64 else cast(whole, dtype)


def iota(shape: Sequence[Size], dim: int) -> Prim:
    """The i64 index along `dim`."""
    return _prim("iota", shape, DType.I64, attr=dim)


def apply(name: str, args: Sequence[Prim], dtype: DType | None = None) -> Prim:
    """A sketch operation on operands of one shape. `dtype`: the result's, where it is not the last operand's."""
    return _prim("op", args[0].shape, dtype or args[-1].dtype, args, name)


def cast(x: Prim, dtype: DType) -> Prim:
    """Conversion to another compute dtype."""
    if x.dtype is dtype:
        return x
    if x.kind == "cast" and x.args[0].kind == "size":
        return cast(x.args[0], dtype)
    if x.kind == "const":
        return const(x.attr, dtype, x.shape) if _const_casts(x.attr, dtype) else _prim("cast", x.shape, dtype, (x,))
    return _prim("cast", x.shape, dtype, (x,))


_VIEWS = frozenset({"mem", "expand", "permute", "reshape", "slice"})  # of elements that something else has computed


def as_stored(x: Prim, memory: DType) -> Prim:
    """The value as memory of that dtype would hold it, in the same dtype as before."""
    if compute_dtype(memory) is memory or x.kind in _VIEWS:
        return x
    if x.kind == "const":
        return const(float(np.float32(x.attr).astype(numpy_dtype(memory))), x.dtype, x.shape)
    return _prim("cast", x.shape, x.dtype, (_prim("cast", x.shape, memory, (x,)),))


def _const_casts(value: Number, dtype: DType) -> bool:
    """Infinities and NaN have no integer value that Python could compute."""
    return not dtype.is_int or (math.isfinite(value) and abs(value) < 2**31)


def reduce(op: str, x: Prim, dims: Sequence[int], dtype: DType | None = None) -> Prim:
    """`op` over `dims`, which disappear. argmax and argmin number elements in row-major order of `dims`.

    dtype: of the result; an f32 sum may be asked for in f64, which is how its partial sums are added up.
    """
    kept = [s for d, s in enumerate(x.shape) if d not in dims]
    found = DType.I64 if op.startswith("arg") else dtype or x.dtype
    return _prim("reduce", kept, found, (x,), (op, tuple(sorted(dims))))


def expand(x: Prim, shape: Sequence[Size]) -> Prim:
    """Broadcast to `shape`, dims aligned at the right."""
    shape = tuple(shape)
    if x.shape == shape:
        return x
    if x.kind in ("const", "size"):
        return _prim(x.kind, shape, x.dtype, attr=x.attr)
    return _prim("expand", shape, x.dtype, (x,))


def permute(x: Prim, dims: Sequence[int]) -> Prim:
    """Dim d of the result is dim dims[d] of x."""
    if tuple(dims) == tuple(range(len(x.shape))):
        return x
    return _prim("permute", [x.shape[d] for d in dims], x.dtype, (x,), tuple(dims))


def reshape(x: Prim, shape: Sequence[Size]) -> Prim:
    """The same elements in row-major order under another shape."""
    shape = tuple(shape)
    if x.shape == shape:
        return x
    if x.kind in ("const", "size"):
        return _prim(x.kind, shape, x.dtype, attr=x.attr)
    if x.kind == "reshape":
        return reshape(x.args[0], shape)
    return _prim("reshape", shape, x.dtype, (x,))


def slice_(x: Prim, dim: int, start: Size, size: Size, step: Size = 1) -> Prim:
    """Elements start, start + step, … along `dim`; a negative step walks backwards."""
    if start == 0 and step == 1 and size == x.shape[dim]:
        return x
    shape = (*x.shape[:dim], size, *x.shape[dim + 1 :])
    return _prim("slice", shape, x.dtype, (x,), (dim, start, step))


def take(x: Prim, sources: Sequence[int | Prim], shape: Sequence[Size]) -> Prim:
    """Dim d of x is read at the result's own index number sources[d], or at the integer value sources[d].

    The integer values have the shape of the result and are in bounds.
    """
    tiles = [s for s in sources if isinstance(s, Prim)]
    where = tuple(s if isinstance(s, int) else None for s in sources)
    return _prim("take", shape, x.dtype, (x, *tiles), where)


def cat(xs: Sequence[Prim], dim: int) -> Prim:
    """The operands one after the other along `dim`."""
    xs = [x for x in xs if x.shape[dim] != 0] or list(xs[:1])
    if len(xs) == 1:
        return xs[0]
    total: Size = 0
    for x in xs:
        total = total + x.shape[dim]
    return _prim("cat", (*xs[0].shape[:dim], total, *xs[0].shape[dim + 1 :]), xs[0].dtype, xs, dim)


def pad(x: Prim, before: Sequence[Size], shape: Sequence[Size], value: Number) -> Prim:
    """x inside a tensor of `shape`, starting at `before` (negative: cropped), surrounded by `value`."""
    return _prim("pad", shape, x.dtype, (x,), (tuple(before), value))


def tap(x: Prim, slides: Sequence[Slide], shape: Sequence[Size], value: Number) -> Prim:
    """x where the slides, one per dim, say; `value` where that is outside x."""
    return _prim("tap", shape, x.dtype, (x,), (tuple(slides), value))
