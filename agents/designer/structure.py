"""Operators that move or create elements: views, slices, gathers, concatenation, padding, constants and casts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from akg_dynamo.agents.designer.calls import Call, NoRule, Result, rule
from akg_dynamo.agents.designer.prims import size_value
from akg_dynamo.agents.designer.sizes import Size
from akg_dynamo.agents.designer.values import V, broadcast_shape, cat, checked, full, iota, pad, take, value_of, where
from akg_dynamo.agents.sketch.ast import DType


@rule(
    "view", "reshape", "_unsafe_view", "_reshape_alias", "squeeze", "unsqueeze", "view_copy", "squeeze_copy",
    "unsqueeze_copy", "flatten",
)  # fmt: skip
def _reshape(c: Call) -> Result:
    return c.raw("self").reshape(c.shape)


@rule(
    "alias", "detach", "clone", "alias_copy", "detach_copy", "lift_fresh_copy", "contiguous", "_to_copy", "to",
    "lift_fresh", "_conj", "conj", "positive", "expand", "expand_copy",
)  # fmt: skip
def _copy(c: Call) -> Result:
    return c.value("self").expand(c.shape)


@rule("copy")
def _copy_from(c: Call) -> Result:
    return c.value("src").expand(c.shape)


@rule("permute", "permute_copy", "t", "t_copy", "transpose", "transpose_copy")
def _permute(c: Call) -> Result:
    x = c.raw("self")
    rank = len(x.shape)
    if c.name.startswith("permute"):
        return x.permute([d % rank for d in c["dims"]])
    order = list(range(rank))
    if c.name.startswith("transpose") and rank:
        a, b = c["dim0"] % rank, c["dim1"] % rank
        order[a], order[b] = order[b], order[a]
    elif rank == 2:
        order = [1, 0]
    return x.permute(order)


def _position(index: Size, size: Size) -> Size:
    """A dim's index as Python means it: negative from the end."""
    return index + size if isinstance(index, int) and index < 0 else index


def _bounded(start: Size | None, size: Size) -> Size:
    """A slice's start, clamped into the dim where that is known."""
    if start is None:
        return 0
    start = _position(start, size)
    if isinstance(start, int) and start < 0:
        return 0
    return min(start, size) if isinstance(start, int) and isinstance(size, int) else start


@rule("select", "select_copy")
def _select(c: Call) -> Result:
    x = c.raw("self")
    dim = c["dim"] % len(x.shape)
    return x.slice(dim, _position(c["index"], x.shape[dim]), 1).reshape(c.shape)


@rule("slice", "slice_copy")
def _slice(c: Call) -> Result:
    x = c.raw("self")
    dim = c["dim"] % len(x.shape)
    return x.slice(dim, _bounded(c["start"], x.shape[dim]), c.shape[dim], c["step"])


@rule("split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes", "unbind", "chunk")
def _split(c: Call) -> Result:
    x = c.raw("self")
    dim = c["dim"] % len(x.shape)
    parts: list[V] = []
    start: Size = 0
    for k in range(len(c.specs)):
        shape = c.shape_of(k)
        size: Size = 1 if c.name == "unbind" else shape[dim]
        parts.append(x.slice(dim, start, size).reshape(shape))
        start = start + size
    return parts


@rule("flip")
def _flip(c: Call) -> Result:
    x = c.raw("self")
    for dim in sorted({d % len(x.shape) for d in c["dims"]}):
        x = x.slice(dim, x.shape[dim] - 1, x.shape[dim], -1)
    return x


@rule("repeat")
def _repeat(c: Call) -> Result:
    x = c.raw("self")
    lead = len(c["repeats"]) - len(x.shape)
    shape = [1] * lead + list(x.shape)
    thin = [s for n in shape for s in (1, n)]
    wide = [s for r, n in zip(c["repeats"], shape, strict=True) for s in (r, n)]
    return x.reshape(thin).expand(wide).reshape(c.shape)


@rule("roll")
def _roll(c: Call) -> Result:
    x = c.raw("self")
    shifts, dims = c["shifts"], c["dims"]
    if not dims:
        flat = x.reshape([_count(x.shape)])
        return _roll_dim(flat, shifts[0], 0).reshape(c.shape)
    for shift, dim in zip(shifts, dims, strict=True):
        x = _roll_dim(x, shift, dim % len(x.shape))
    return x


def _count(shape: Sequence[Size]) -> Size:
    n: Size = 1
    for s in shape:
        n = n * s
    return n


def _roll_dim(x: V, shift: Size, dim: int) -> V:
    size = x.shape[dim]
    if isinstance(shift, int) and isinstance(size, int):
        shift = shift % size if size else 0
    elif not (isinstance(shift, int) and shift > 0):
        shift = size + shift
    if shift == 0:
        return x
    return cat([x.slice(dim, size - shift, shift), x.slice(dim, 0, size - shift)], dim)


@rule("cat", "stack")
def _cat(c: Call) -> Result:
    xs = [x.to(c.dtype) for x in c["tensors"]]
    rank = len(c.shape)
    dim = c["dim"] % rank
    if c.name == "stack":
        xs = [x.reshape([*x.shape[:dim], 1, *x.shape[dim:]]) for x in xs]
    else:
        xs = [x for x in xs if x.shape != (0,) or rank == 1]
    return cat(xs, dim).expand(c.shape)


@rule("constant_pad_nd")
def _pad(c: Call) -> Result:
    x = c.raw("self")
    before: list[Size] = [0] * len(x.shape)
    for k in range(len(c["pad"]) // 2):
        before[len(x.shape) - 1 - k] = c["pad"][2 * k]
    return pad(x, before, c.shape, c["value"])


@rule("tril", "triu")
def _triangle(c: Call) -> Result:
    x, rank = c.raw("self"), len(c.shape)
    row, column = iota(c.shape, rank - 2), iota(c.shape, rank - 1)
    inside = column - row <= c["diagonal"] if c.name == "tril" else column - row >= c["diagonal"]
    return where(inside, x, x.like(0))


# --------------------------------------------------------------------------------------------------------------------
# Slices as places to write to


def _placed(c: Call, part: V, dim: int, start: Size, step: int) -> tuple[V, V]:
    """(part spread over the result's dim from start by step, whether an element is one of its)."""
    shape = c.shape
    if step == 1:
        before: list[Size] = [0] * len(shape)
        before[dim] = start
        offset = iota(shape, dim) - start
        inside = (offset >= 0) & (offset < part.shape[dim])
        return pad(part, before, shape), inside
    offset = iota(shape, dim) - start
    number = offset.op("floordiv", step)
    inside = (offset >= 0) & (number < part.shape[dim]) & offset.op("mod", step).eq(0)
    safe = where(inside, number, 0)
    return take(part, [safe if d == dim else d for d in range(len(shape))], shape), inside


@rule("slice_backward", "slice_scatter", "select_backward", "select_scatter")
def _scatter(c: Call) -> Result:
    backward = c.name.endswith("backward")
    part = c.value("grad_output" if backward else "src")
    dim = c["dim"] % len(c.shape)
    if c.name.startswith("select"):
        start, step = _position(c["index"], c.shape[dim]), 1
        part = part.reshape([*c.shape[:dim], 1, *c.shape[dim + 1 :]])
    else:
        start, step = _bounded(c["start"], c.shape[dim]), c["step"]
    placed, inside = _placed(c, part, dim, start, step)
    if backward and step == 1:
        return placed
    return where(inside, placed, placed.like(0) if backward else c.value("self"))


# --------------------------------------------------------------------------------------------------------------------
# Gathers


@rule("embedding")
def _embedding(c: Call) -> Result:
    weight = c.raw("weight")
    indices = checked(c.raw("indices").to(DType.I64), weight.shape[0])
    rank = len(indices.shape)
    shape = c.shape
    return take(weight, [indices.reshape([*indices.shape, 1]), rank], shape)


@rule("index_select")
def _index_select(c: Call) -> Result:
    x = c.raw("self")
    if not x.shape:
        return take(x.reshape([1]), [checked(c.raw("index").to(DType.I64), 1).reshape(c.shape)], c.shape)
    dim = c["dim"] % len(x.shape)
    after = len(x.shape) - dim - 1
    index = checked(c.raw("index").to(DType.I64), x.shape[dim])
    index = index.reshape([_count(index.shape), *[1] * after])
    return take(x, [index if d == dim else d for d in range(len(x.shape))], c.shape)


@rule("gather")
def _gather(c: Call) -> Result:
    x, index = c.raw("self"), c.raw("index").to(DType.I64)
    if not x.shape:
        x = x.reshape([1])
    dim = c["dim"] % len(x.shape)
    index = checked(index, x.shape[dim])
    if not index.shape:
        return take(x, [index], c.shape)
    return take(x, [index if d == dim else d for d in range(len(x.shape))], c.shape)


@rule("index", "_unsafe_index")
def _index(c: Call) -> Result:
    x: V = c.raw("self")
    listed: list[V | None] = c["indices"]
    given = [*listed, *[None] * (len(x.shape) - len(listed))]
    places = [d for d, i in enumerate(given) if i is not None]
    tensors = [i for i in given if i is not None]
    if any(i.dtype is DType.BOOL for i in tensors):
        raise NoRule("an index of bools")
    common = broadcast_shape([i.shape for i in tensors])
    adjacent = places == list(range(places[0], places[0] + len(places)))
    first = places[0] if adjacent else 0  # where torch puts the indexed dims
    sources: list[int | V] = []
    position = 0
    rest = len(c.shape) - first - len(common)
    for d, index in enumerate(given):
        if index is None:
            if position == first:
                position += len(common)
            sources.append(position)
            position += 1
        else:
            if position == first and adjacent and d == places[-1]:
                position += len(common)
            wrapped = index.to(DType.I64)
            size = V(size_value(x.shape[d], DType.I64))
            wrapped = checked(where(wrapped < 0, wrapped + size, wrapped), x.shape[d])
            lead = [1] * (len(common) - len(index.shape))
            sources.append(wrapped.reshape([*lead, *index.shape, *[1] * rest]))
    return take(x, sources, c.shape)


# --------------------------------------------------------------------------------------------------------------------
# Creation


@rule(
    "full", "full_like", "new_full", "ones", "ones_like", "new_ones", "zeros", "zeros_like", "new_zeros",
    "scalar_tensor", "empty", "empty_like", "new_empty", "empty_strided",
)  # fmt: skip
def _full(c: Call) -> Result:
    if "full" in c.name:
        value: Any = c["fill_value"]
    elif c.name == "scalar_tensor":
        value = c["s"]
    else:
        value = 1 if "ones" in c.name else 0
    return full(value, c.dtype, c.shape)


@rule("arange")
def _arange(c: Call) -> Result:
    start, step = c.get("start", 0), c.get("step", 1)
    counted = iota(c.shape, 0).to(c.dtype)
    scaled = counted if step == 1 else counted * value_of(step, c.dtype)
    return scaled if start == 0 else scaled + value_of(start, c.dtype)
