"""Where an element of a value is read from: axes, index maps, and the tracer that inlines values into loop bodies.

Every dim of a result is a product of **axes**, the future loops. A value is traced at an index, one `Index` per dim; a
view turns that into an index of its operand, so views cost nothing. An index is affine in the axes wherever it can be.
A reshape may need an axis to fall into two (`NeedSplit`): the trace then starts again with the finer axes. What cannot
be affine (a reshape whose dims do not divide, a gather) is computed, as an i64 tile expression.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from akg_dynamo.agents.designer.prims import STILL, Number, Prim, Shape, Storage
from akg_dynamo.agents.designer.sizes import Size, SizeFacts, exact_div, floor_div, product
from akg_dynamo.agents.sketch.ast import DType
from akg_dynamo.fusion.ops import LARGEST_WINDOW


@dataclass(frozen=True, eq=False)
class Axis:
    """A future loop over 0 … extent-1. Compared by identity."""

    extent: Size


class Tile:
    """A node of an expression over axes, interned by a `Tiles`: equal expressions are the same object.

    kinds: const, size, index (an `Index` as a number), load, red (a reduction's result), op, cast.
    """

    __slots__ = ("args", "attr", "axes", "below", "dtype", "has_red", "kind")

    def __init__(self, kind: str, dtype: DType, args: tuple[Tile, ...], attr: Any, axes: frozenset[Axis]) -> None:
        self.kind, self.dtype, self.args, self.attr, self.axes = kind, dtype, args, attr, axes
        below = args
        if kind in ("load", "red"):
            below += tuple(i.tile for i in attr.indices if i.tile is not None)
        self.below = below
        """Operands and computed indices."""
        self.has_red: bool = kind == "red" or any(t.has_red for t in below)


@dataclass(frozen=True)
class Index:
    """The index along one dim: sum of coefficient * axis, plus `const`, plus a computed integer `tile`.

    loose: it may lie outside the dim, at elements that a mask further out discards.
    """

    terms: tuple[tuple[Axis, Size], ...] = ()
    const: Size = 0
    tile: Tile | None = None
    loose: bool = False

    @property
    def axes(self) -> frozenset[Axis]:
        """The axes it varies over."""
        own = frozenset(a for a, _ in self.terms)
        return own | self.tile.axes if self.tile is not None else own

    def shifted(self, by: Size) -> Index:
        """This plus a constant."""
        return Index(self.terms, self.const + by, self.tile, self.loose)

    def loosened(self) -> Index:
        """The same, out of bounds where it is masked."""
        return Index(self.terms, self.const, self.tile, True)


Indices: TypeAlias = "tuple[Index, ...]"


@dataclass(frozen=True)
class EveryFew:
    """The elements first, first + step, … of a dim: `size` of them, of which an index takes number `index`."""

    index: Index
    size: Size
    step: int = 1
    first: int = 0


def every_few(index: Index, size: Size) -> EveryFew:
    """The fewest elements of a dim of `size` that an affine index reaches. It is outside them where it is outside.

    2 * i + 3, for example, takes number i + 1 of the elements 1, 3, 5, …
    """
    step = math.gcd(*(c if isinstance(c, int) else 1 for _, c in index.terms))
    if index.tile is not None or not isinstance(index.const, int) or step < 2:
        return EveryFew(index, size)
    number, first = divmod(index.const, step)
    terms = tuple((a, c // step) for a, c in index.terms if isinstance(c, int))
    return EveryFew(Index(terms, number, None, index.loose), floor_div(size + (step - 1 - first), step), step, first)


@dataclass(frozen=True)
class Access:
    """A load's or a store's place: the storage, and one index per dim of it. other: what a load reads outside it."""

    storage: Storage
    indices: Indices
    other: Number = 0


@dataclass(frozen=True)
class RedRef:
    """A reduction's result, at one index per kept dim."""

    prim: Prim
    indices: Indices


class NeedSplit(Exception):
    """An axis must become two: the inner one of `inner` elements."""

    def __init__(self, axis: Axis, inner: Size) -> None:
        super().__init__(f"axis of {axis.extent} by {inner}")
        self.axis, self.inner = axis, inner


class TooMuch(Exception):
    """Tracing recomputes `prim` at so many indices that it should be computed once, into scratch."""

    def __init__(self, prim: Prim) -> None:
        super().__init__(prim.kind)
        self.prim = prim


class Tiles:
    """Makes and interns tile expressions, with the folding that keeps them small."""

    def __init__(self) -> None:
        self._made: dict[Any, Tile] = {}

    def make(self, kind: str, dtype: DType, args: tuple[Tile, ...] = (), attr: Any = None, axes: Any = ()) -> Tile:
        """The tile expression; `axes`: what it varies over besides its operands' axes."""
        attr_key = (type(attr).__name__, repr(attr)) if isinstance(attr, bool | int | float) else attr
        key = (kind, dtype, tuple(map(id, args)), attr_key)
        found = self._made.get(key)
        if found is None:
            all_axes = frozenset(axes).union(*(a.axes for a in args))
            found = self._made[key] = Tile(kind, dtype, args, attr, all_axes)
        return found

    def const(self, value: Number, dtype: DType) -> Tile:
        """A literal."""
        return self.make("const", dtype, attr=value)

    def op(self, name: str, *args: Tile) -> Tile:
        """A sketch operation."""
        from_bool = name in _TO_BOOL
        return self.make("op", DType.BOOL if from_bool else args[-1].dtype, args, name)

    def cast(self, x: Tile, dtype: DType) -> Tile:
        """A conversion."""
        return x if x.dtype is dtype else self.make("cast", dtype, (x,))

    def index(self, index: Index) -> Tile:
        """An index as an i64 number."""
        if index.tile is None:
            if not index.terms and isinstance(index.const, int):
                return self.const(index.const, DType.I64)
            plain = Index(index.terms, index.const)
            return self.make("index", DType.I64, attr=plain, axes=plain.axes)
        rest = Index(index.terms, index.const)
        if not rest.terms and rest.const == 0:
            return index.tile
        return self.op("add", index.tile, self.index(rest))

    def size(self, size: Size) -> Tile:
        """A size as an i64 number: not folded, since a sketch serves all sizes."""
        if size in (0, 1):
            return self.index(Index(const=size))
        return self.make("index", DType.I64, attr=Index(const=size))

    def all(self, conditions: Sequence[Tile]) -> Tile:
        """The conjunction."""
        result = conditions[0]
        for c in conditions[1:]:
            result = self.op("and", result, c)
        return result


_TO_BOOL = frozenset(["eq", "ne", "lt", "le", "gt", "ge", "isnan", "isinf", "signbit"])


def linear(indices: Sequence[Index], sizes: Sequence[Size], tiles: Tiles) -> Index:
    """The row-major number of an element at `indices` of dims `sizes`."""
    terms: dict[Axis, Size] = {}
    const: Size = 0
    tile: Tile | None = None
    for index, stride in zip(indices, [product(sizes[d + 1 :]) for d in range(len(sizes))], strict=True):
        for axis, c in index.terms:
            terms[axis] = terms.get(axis, 0) + c * stride
        const = const + index.const * stride
        if index.tile is not None:
            part = index.tile if stride == 1 else tiles.op("mul", index.tile, tiles.size(stride))
            tile = part if tile is None else tiles.op("add", tile, part)
    return Index(tuple((a, c) for a, c in terms.items() if c != 0), const, tile, any(i.loose for i in indices))


class Tracer:
    """Inlines values at indices, for one sink: everything the sink needs, as tile expressions over its axes.

    stored: values that some phase computes into memory; every other value is computed where it is used.
    splits: whether a reshape may ask for finer axes (`NeedSplit`); without, what they would make affine is computed.
    """

    def __init__(
        self,
        tiles: Tiles,
        facts: SizeFacts,
        stored: Callable[[Prim], Storage | None],
        root: Prim,
        *,
        splits: bool = True,
    ) -> None:
        self.tiles, self.facts, self._stored, self._root = tiles, facts, stored, root
        self._splits = splits
        self._memo: dict[tuple[int, Indices], Tile] = {}
        self._visits: dict[Prim, float] = {}
        self._windows = 0  # how many windows slide over what is being traced

    # How many different places one computed value may be inlined at before it is worth a scratch tensor. All places of
    # one window are one: their neighbours are, too, and what they read comes from the nearest cache.
    MAX_PLACES = 6

    def trace(self, prim: Prim, at: Indices) -> Tile:
        """One element of `prim`, at one index per dim."""
        key = (id(prim), at)
        found = self._memo.get(key)
        if found is None:
            found = self._memo[key] = self._trace(prim, at)
        return found

    def _trace(self, prim: Prim, at: Indices) -> Tile:
        if prim is not self._root:
            storage = self._stored(prim)
            if storage is not None:
                return self.load(storage, at)
            if prim.kind == "reduce":
                axes = frozenset().union(*(i.axes for i in at))
                return self.tiles.make("red", prim.dtype, (), RedRef(prim, at), axes)
            if prim.kind in ("op", "cast") and prim.depth > 2:
                visit = 1 if self._windows != 1 else 1 / LARGEST_WINDOW
                visits = self._visits[prim] = self._visits.get(prim, 0) + visit
                if visits > self.MAX_PLACES:
                    raise TooMuch(prim)
        trace_kind: Callable[[Prim, Indices], Tile] = getattr(self, f"_trace_{prim.kind}")
        return trace_kind(prim, at)

    def load(self, storage: Storage, at: Indices, other: Number = 0) -> Tile:
        """An element of a tensor in memory, in its compute dtype. other: what is read outside its bounds."""
        axes = frozenset().union(*(i.axes for i in at))
        raw = self.tiles.make("load", storage.dtype, (), Access(storage, at, other), axes)
        return self.tiles.cast(raw, DType.F32) if storage.dtype in (DType.F16, DType.BF16) else raw

    def _trace_mem(self, prim: Prim, at: Indices) -> Tile:
        return self.load(prim.attr, at)

    def _trace_const(self, prim: Prim, at: Indices) -> Tile:
        return self.tiles.const(prim.attr, prim.dtype)

    def _trace_size(self, prim: Prim, at: Indices) -> Tile:
        return self.tiles.size(prim.attr)

    def _trace_iota(self, prim: Prim, at: Indices) -> Tile:
        return self.tiles.index(at[prim.attr])

    def _trace_op(self, prim: Prim, at: Indices) -> Tile:
        return self.tiles.make("op", prim.dtype, tuple(self.trace(a, at) for a in prim.args), prim.attr)

    def _trace_cast(self, prim: Prim, at: Indices) -> Tile:
        return self.tiles.cast(self.trace(prim.args[0], at), prim.dtype)

    def _trace_expand(self, prim: Prim, at: Indices) -> Tile:
        x = prim.args[0]
        lead = len(prim.shape) - len(x.shape)
        inner = tuple(
            Index() if size == 1 and prim.shape[lead + d] != 1 else at[lead + d] for d, size in enumerate(x.shape)
        )
        return self.trace(x, inner)

    def _trace_permute(self, prim: Prim, at: Indices) -> Tile:
        inner = [Index()] * len(at)
        for d, source in enumerate(prim.attr):
            inner[source] = at[d]
        return self.trace(prim.args[0], tuple(inner))

    def _trace_slice(self, prim: Prim, at: Indices) -> Tile:
        dim, start, step = prim.attr
        return self.trace(prim.args[0], (*at[:dim], self._moved(at[dim], start, step), *at[dim + 1 :]))

    def _moved(self, index: Index, start: Size, step: Size) -> Index:
        tile = index.tile
        if tile is not None and step != 1:
            tile = self.tiles.op("mul", tile, self.tiles.size(step))
        return Index(tuple((a, c * step) for a, c in index.terms), index.const * step + start, tile, index.loose)

    def _trace_reshape(self, prim: Prim, at: Indices) -> Tile:
        return self.trace(prim.args[0], self.unreshape(at, prim.shape, prim.args[0].shape))

    def _trace_take(self, prim: Prim, at: Indices) -> Tile:
        x, *values = prim.args
        rest = iter(values)
        inner = [at[s] if s is not None else Index(tile=self.trace(next(rest), at)) for s in prim.attr]
        return self.trace(x, tuple(_known(i) for i in inner))

    def _trace_cat(self, prim: Prim, at: Indices) -> Tile:
        dim = prim.attr
        start: Size = 0
        pieces: list[tuple[Size, Tile]] = []
        for x in prim.args:
            index = at[dim].shifted(-start)
            inner = (*at[:dim], index.loosened(), *at[dim + 1 :])
            start = start + x.shape[dim]
            pieces.append((start, self.trace(x, inner)))
        result = pieces[-1][1]
        here = self.tiles.index(at[dim])
        for end, piece in reversed(pieces[:-1]):
            result = self.tiles.op("where", self.tiles.op("lt", here, self.tiles.size(end)), piece, result)
        return result

    def _trace_pad(self, prim: Prim, at: Indices) -> Tile:
        (before, value), x = prim.attr, prim.args[0]
        inner: list[Index] = []
        conditions: list[Tile] = []
        for index, lo, size, outer in zip(at, before, x.shape, prim.shape, strict=True):
            if lo == 0 and size == outer:
                inner.append(index)
                continue
            moved = index.shifted(-lo)
            number = self.tiles.index(moved)
            if not self.facts.nonnegative(-lo):
                conditions.append(self.tiles.op("ge", number, self.tiles.const(0, DType.I64)))
            if not self.facts.at_most(outer - lo, size):
                conditions.append(self.tiles.op("lt", number, self.tiles.size(size)))
            inner.append(moved.loosened() if conditions else moved)
        inside = self.trace(x, tuple(inner))
        if not conditions:
            return inside
        return self.tiles.op("where", self.tiles.all(conditions), inside, self.tiles.const(value, prim.dtype))

    def _trace_tap(self, prim: Prim, at: Indices) -> Tile:
        (slides, value), x = prim.attr, prim.args[0]
        inner: list[Index] = []
        conditions: list[Tile] = []
        for index, slide, size in zip(at, slides, x.shape, strict=True):
            if slide == STILL:
                inner.append(index)
                continue
            moved = self._moved(index, slide.start, slide.step).loosened()
            inner.append(moved)
            every = every_few(moved, size)
            number = self.tiles.index(replace(every.index, const=0))
            if slide.below:
                conditions.append(self.tiles.op("ge", number, self.tiles.size(-every.index.const)))
            if slide.above:
                conditions.append(self.tiles.op("lt", number, self.tiles.size(every.size - every.index.const)))
        if x.kind == "mem" and x.attr.kind == "in":  # its bounds are the conditions
            return self.load(x.attr, tuple(inner), value)
        self._windows += 1
        inside = self.trace(x, tuple(inner))
        self._windows -= 1
        if not conditions:
            return inside
        return self.tiles.op("where", self.tiles.all(conditions), inside, self.tiles.const(value, prim.dtype))

    # ----------------------------------------------------------------------------------------------------------------
    # Reshapes

    def unreshape(self, at: Indices, shape: Shape, inner: Shape) -> Indices:
        """The index into dims `inner` of the element at `at` in dims `shape`."""
        outs = [(s, i) for s, i in zip(shape, at, strict=True) if s != 1]
        ins = [s for s in inner if s != 1]
        found: list[Index] = []
        o = i = 0
        while o < len(outs) or i < len(ins):
            if o == len(outs) or i == len(ins):  # one side is empty, or symbols that torch knows to be equal
                found.extend(Index() for _ in ins[i:])
                break
            start_o, start_i = o, i
            left, right = outs[o][0], ins[i]
            o, i = o + 1, i + 1
            while left != right and (o < len(outs) or i < len(ins)):
                if i == len(ins) or (o < len(outs) and self.facts.value(left) <= self.facts.value(right)):
                    left, o = left * outs[o][0], o + 1
                else:
                    right, i = right * ins[i], i + 1
            group = outs[start_o:o]
            whole = linear([x for _, x in group], [s for s, _ in group], self.tiles)
            found += self._digits(whole, ins[start_i:i])
        numbers = iter(found)
        return tuple(Index() if s == 1 else next(numbers) for s in inner)

    def _digits(self, whole: Index, sizes: Sequence[Size]) -> list[Index]:
        """Row-major index `whole` over dims `sizes`, as one index per dim."""
        digits: list[Index] = []
        for size in reversed(sizes[1:]):
            whole, digit = self._divide(whole, size)
            digits.append(digit)
        digits.append(whole)
        return digits[::-1]

    def _divide(self, whole: Index, by: Size) -> tuple[Index, Index]:
        if whole.tile is None and not whole.loose:
            exact = self._divide_affine(whole, by) if self._splits else None
            if exact is not None:
                return exact
        tile, size = self.tiles.index(whole), self.tiles.size(by)
        quotient, rest = self.tiles.op("floordiv", tile, size), self.tiles.op("mod", tile, size)
        return Index(tile=quotient, loose=whole.loose), Index(tile=rest, loose=whole.loose)

    def _divide_affine(self, whole: Index, by: Size) -> tuple[Index, Index] | None:
        """Quotient and rest when both are affine; `NeedSplit` when they would be with a finer axis."""
        upper: list[tuple[Axis, Size]] = []
        lower: list[tuple[Axis, Size]] = []
        for axis, c in whole.terms:
            quotient = exact_div(c, by)
            if quotient is not None:
                upper.append((axis, quotient))
            else:
                lower.append((axis, c))
        for axis, c in lower:  # an axis that reaches over the border falls into two
            inner = exact_div(by, c)
            if inner is None or inner == 1 or (isinstance(inner, int) and inner < 0):
                continue
            if exact_div(axis.extent, inner) not in (None, 1) and axis.extent != inner:
                raise NeedSplit(axis, inner)
        const_up, const_low = self._divide_const(whole.const, by)
        least, most = const_low, const_low
        for axis, c in lower:
            reach = c * (axis.extent - 1)
            if isinstance(c, int) and c < 0:
                least = least + reach
            else:
                most = most + reach
        if not (self.facts.nonnegative(least) and self.facts.at_most(most, by - 1)):
            return None
        return Index(tuple(upper), const_up), Index(tuple(lower), const_low)

    @staticmethod
    def _divide_const(const: Size, by: Size) -> tuple[Size, Size]:
        if isinstance(const, int) and isinstance(by, int):
            return divmod(const, by)
        quotient = exact_div(const, by)
        return (quotient, 0) if quotient is not None else (0, const)


def _known(index: Index) -> Index:
    """A computed index that is plainly affine, as such."""
    tile = index.tile
    if tile is None or index.terms or index.const != 0:
        return index
    if tile.kind == "index":
        plain: Index = tile.attr
        return Index(plain.terms, plain.const, None, index.loose)
    if tile.kind == "const":
        return Index((), tile.attr, None, index.loose)
    return index


@dataclass(eq=False)
class Sink:
    """A value that is computed for itself, not inlined: an output, a reduction, or scratch for a later phase.

    prim: the value, computed from `operand`: a reduction's operand, reduced by `op` over `dims`; else the value.
    factors: per dim of the domain, the extents of the axes that make it up, outermost first.
    chunk: the axis that numbers chunks, when a reduction stores one partial result for each.
    """

    prim: Prim
    operand: Prim
    target: Storage | None
    op: str = ""
    dims: tuple[int, ...] = ()
    chunk: Axis | None = None
    factors: list[list[Size]] = field(default_factory=list)
    axes: list[list[Axis]] = field(default_factory=list)
    tile: Tile | None = None
    reds: list[RedRef] = field(default_factory=list)
    loads: list[Access] = field(default_factory=list)

    @staticmethod
    def of(prim: Prim, target: Storage | None) -> Sink:
        """The sink that computes `prim`."""
        if prim.kind == "reduce":
            op, dims = prim.attr
            return Sink(prim, prim.args[0], target, op, dims)
        return Sink(prim, prim, target)

    @property
    def is_reduction(self) -> bool:
        """Whether it reduces its operand."""
        return bool(self.op)

    @property
    def domain(self) -> Shape:
        """The dims it loops over."""
        return self.operand.shape

    @property
    def kept_dims(self) -> list[int]:
        """The dims of the domain that are dims of the value."""
        return [d for d in range(len(self.domain)) if d not in self.dims]

    def kept_axes(self) -> list[Axis]:
        """The axes of the value, in order."""
        own = [a for d in self.kept_dims for a in self.axes[d]]
        return [self.chunk, *own] if self.chunk is not None else own

    def reduced_axes(self) -> list[Axis]:
        """The axes that are reduced, in order."""
        return [a for d in self.dims for a in self.axes[d]]

    def indices(self, dims: Sequence[int]) -> Indices:
        """The index along each of `dims`."""
        found = []
        for d in dims:
            axes = self.axes[d]
            terms = tuple((a, product(b.extent for b in axes[k + 1 :])) for k, a in enumerate(axes))
            found.append(Index(terms))
        return tuple(found)


_MOST_SPLITS = 63


def trace_sink(sink: Sink, tiles: Tiles, facts: SizeFacts, stored: Callable[[Prim], Storage | None]) -> None:
    """Fill in a sink's axes and tile expression, splitting axes until every reshape is an index map."""
    if not sink.factors:
        sink.factors = [[] if s == 1 else [s] for s in sink.domain]
    for attempt in range(_MOST_SPLITS + 1):
        sink.axes = [[Axis(e) for e in f] for f in sink.factors]
        tracer = Tracer(tiles, facts, stored, sink.prim, splits=attempt < _MOST_SPLITS)
        at = sink.indices(range(len(sink.domain)))
        try:
            sink.tile = tracer.trace(sink.operand, at)
        except NeedSplit as need:
            split_factor(sink, need.axis, need.inner)
            continue
        break
    assert sink.tile is not None
    sink.reds, sink.loads = leaves(sink.tile)


def split_factor(sink: Sink, axis: Axis, inner: Size) -> None:
    """Divide one axis of a sink's domain in two (takes effect at the next trace)."""
    for axes, factors in zip(sink.axes, sink.factors, strict=True):
        if axis in axes:
            k = axes.index(axis)
            outer = exact_div(axis.extent, inner)
            assert outer is not None
            factors[k : k + 1] = [outer, inner]
            return
    raise AssertionError("the axis is not this sink's")


def leaves(tile: Tile) -> tuple[list[RedRef], list[Access]]:
    """The reductions and loads below a tile expression (computed indices included)."""
    reds: list[RedRef] = []
    loads: list[Access] = []
    seen: set[int] = set()
    stack = [tile]
    while stack:
        t = stack.pop()
        if id(t) in seen:
            continue
        seen.add(id(t))
        stack.extend(t.below)
        if t.kind == "load":
            loads.append(t.attr)
        elif t.kind == "red":
            reds.append(t.attr)
    return reds, loads
