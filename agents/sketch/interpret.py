"""The interpreter: runs a sketch on NumPy arrays, and finds what only a run can find.

Iterations of a parallel loop run in random order. For every tensor stored to inside one, each element remembers
which iteration wrote it and which read it, so a race is an error whatever the order was. So are a store out of
bounds, two lanes of one store that hit the same element, a read of an element nothing wrote, and an output that was
not written everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from akg_dynamo.agents.sketch import numerics
from akg_dynamo.agents.sketch.ast import (
    Alloc,
    Assign,
    At,
    AxisDecl,
    Cast,
    DType,
    For,
    Gather,
    IndexValue,
    IntExpr,
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
from akg_dynamo.agents.sketch.check import check
from akg_dynamo.agents.sketch.intexpr import evaluate
from akg_dynamo.agents.sketch.numerics import Array, numpy_dtype
from akg_dynamo.agents.sketch.ops import OPS, Rule
from akg_dynamo.core.errors import SketchError

_NOBODY, _MANY = -1, -2


def interpret(
    sketch: Sketch,
    tensors: dict[str, Array],
    symbols: dict[str, int],
    *,
    rng: np.random.Generator | None = None,
) -> None:
    """Runs `sketch`, filling its "out" arrays in place. `SketchError` if it is not well formed or does something wrong.

    tensors: for each "in" and "out" tensor an array of the declared shape and dtype, with any NumPy strides (see
        `as_declared`); "tmp" tensors are allocated here.
    rng: orders the iterations of parallel loops; a fixed seed when None.
    """
    check(sketch)
    with np.errstate(all="ignore"):
        _Interpreter(sketch, tensors, symbols, rng or np.random.default_rng(0)).run()


def as_declared(storage: Array, decl: TensorDecl, symbols: dict[str, int], offset: int = 0) -> Array:
    """A flat buffer seen as the declared tensor: its shape and strides, from element `offset` on."""
    shape = tuple(evaluate(d, symbols) for d in decl.shape)
    strides = _contiguous(shape) if decl.strides is None else tuple(evaluate(s, symbols) for s in decl.strides)
    if 0 not in shape:
        reach = [(n - 1) * s for n, s in zip(shape, strides, strict=True)]
        low, high = offset + sum(r for r in reach if r < 0), offset + sum(r for r in reach if r > 0)
        if low < 0 or high >= storage.size:
            raise SketchError(f"'{decl.name}' reaches elements {low} to {high} of a buffer of {storage.size}")
    flat = storage.reshape(-1)[offset:]
    return np.lib.stride_tricks.as_strided(flat, shape, tuple(s * storage.itemsize for s in strides))


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides: list[int] = []
    step = 1
    for size in reversed(shape):
        strides.insert(0, step)
        step *= max(size, 1)
    return tuple(strides)


@dataclass(frozen=True)
class _Tile:
    """One dimension per axis, as long as the axis has live lanes."""

    data: Array
    dtype: DType
    axes: tuple[str, ...]


@dataclass(frozen=True)
class _Axis:
    start: int
    live: int


@dataclass(frozen=True)
class _Access:
    """Where a reference goes: index arrays that broadcast to `shape`, which elements exist, and their flat numbers."""

    axes: tuple[str, ...]
    indices: tuple[Array, ...]
    inside: Array
    flat: Array


class _Frame:
    """One run of a parallel loop: for each tensor stored to inside, who wrote and who read every element."""

    def __init__(self, var: str, sizes: dict[str, int]) -> None:
        self.var = var
        self.iteration = 0
        self.writers = {name: np.full(size, _NOBODY, dtype=np.int64) for name, size in sizes.items()}
        self.readers = {name: np.full(size, _NOBODY, dtype=np.int64) for name, size in sizes.items()}

    def reads(self, name: str, flat: Array) -> bool:
        """Records a read; whether another iteration wrote any of it."""
        if name not in self.writers:
            return False
        writers, readers = self.writers[name], self.readers[name]
        before = readers[flat]
        readers[flat] = np.where((before == _NOBODY) | (before == self.iteration), self.iteration, _MANY)
        return bool(np.any((writers[flat] != _NOBODY) & (writers[flat] != self.iteration)))

    def writes(self, name: str, flat: Array) -> str:
        """Records a write; what another iteration did to any of it ("" if nothing)."""
        if name not in self.writers:
            return ""
        writers, readers = self.writers[name], self.readers[name]
        clash = ""
        if np.any((readers[flat] != _NOBODY) & (readers[flat] != self.iteration)):
            clash = "reads"
        if np.any((writers[flat] != _NOBODY) & (writers[flat] != self.iteration)):
            clash = "stores to"
        writers[flat] = self.iteration
        return clash


class _Interpreter:
    def __init__(
        self, sketch: Sketch, tensors: dict[str, Array], symbols: dict[str, int], rng: np.random.Generator
    ) -> None:
        self.sketch = sketch
        self.rng = rng
        self.line = 0
        self.ints: dict[str, int] = {}
        for name in sketch.symbols:
            if name not in symbols:
                raise SketchError(f"symbol '{name}' has no value")
            self.ints[name] = int(symbols[name])
        self.ints |= {c.name: c.value for c in sketch.constexprs}
        self.axes: dict[str, _Axis] = {}
        self.tiles: dict[str, _Tile] = {}
        self.frames: list[_Frame] = []
        self.arrays: dict[str, Array] = {}
        self.dtypes = {t.name: t.dtype for t in sketch.tensors}
        self.written: dict[str, Array] = {}
        for decl in sketch.tensors:
            self.bind(decl, tensors)

    def error(self, reason: str) -> SketchError:
        return SketchError(reason, self.line or None)

    def bind(self, decl: TensorDecl, tensors: dict[str, Array]) -> None:
        self.line = decl.line
        shape = tuple(self.int_value(d) for d in decl.shape)
        if any(size < 0 for size in shape):
            raise self.error(f"'{decl.name}' has the shape {shape}")
        dtype = numpy_dtype(decl.dtype)
        if decl.kind == "tmp":
            array: Array = np.zeros(shape, dtype)
        elif decl.name not in tensors:
            raise self.error(f"no array for tensor '{decl.name}'")
        else:
            array = tensors[decl.name]
        if array.shape != shape or array.dtype != dtype:
            raise self.error(f"'{decl.name}' is declared {dtype} {shape}; the array is {array.dtype} {array.shape}")
        if decl.kind != "in":
            self.written[decl.name] = np.zeros(array.size, dtype=np.bool_)
            if decl.strides is not None and array.size:
                self.distinct(decl, shape)
        self.arrays[decl.name] = array

    def distinct(self, decl: TensorDecl, shape: tuple[int, ...]) -> None:
        assert decl.strides is not None
        places = np.zeros(shape, dtype=np.int64)
        for d, (size, stride) in enumerate(zip(shape, decl.strides, strict=True)):
            along = np.arange(size, dtype=np.int64) * self.int_value(stride)
            places += along.reshape([-1 if k == d else 1 for k in range(len(shape))])
        if np.unique(places).size != places.size:
            raise self.error(f"'{decl.name}' is written, but its strides make elements share storage")

    def run(self) -> None:
        self.body(self.sketch.body)
        for decl in self.sketch.tensors:
            missing = int((~self.written[decl.name]).sum()) if decl.kind == "out" else 0
            if missing:
                raise SketchError(f"{missing} elements of '{decl.name}' were never stored", decl.line or None)

    # --------------------------------------------------------------------------------------------------- statements

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Axes, loop variables and names defined inside end with it; names from outside keep what they became."""
        axes, ints, names = dict(self.axes), dict(self.ints), set(self.tiles)
        yield
        self.axes, self.ints = axes, ints
        self.tiles = {n: t for n, t in self.tiles.items() if n in names}

    def body(self, statements: tuple[Stmt, ...]) -> None:
        for s in statements:
            self.line = s.line
            try:
                self.statement(s)
            except (ZeroDivisionError, IndexError) as e:
                raise self.error(str(e)) from None

    def statement(self, s: Stmt) -> None:
        if isinstance(s, Assign):
            self.tiles[s.name] = self.expr(s.value)
        elif isinstance(s, Alloc):
            axes = tuple(a for a in self.axes if a in s.axes)
            shape = tuple(self.axes[a].live for a in axes)
            self.tiles[s.name] = _Tile(np.full(shape, numerics.literal(s.init, s.dtype)), s.dtype, axes)
        elif isinstance(s, Store):
            self.store(s)
        elif isinstance(s, AxisDecl):
            start, stop, size = self.int_value(s.start), self.int_value(s.stop), self.size(s.size)
            if stop - start > size:
                raise self.error(f"axis '{s.var}' has {stop - start} lanes, more than its size {size}")
            self.axes[s.var] = _Axis(start, max(stop - start, 0))
            self.ints[s.var] = start
        else:
            self.loop(s)

    def loop(self, s: For) -> None:
        start, stop = self.int_value(s.start), self.int_value(s.stop)
        step = 1 if s.step is None else self.size(s.step)
        firsts = list(range(start, stop, step))
        order = list(range(len(firsts)))
        frame: _Frame | None = None
        if s.parallel:
            self.rng.shuffle(order)
            frame = _Frame(s.var, {name: self.arrays[name].size for name in _stored(s.body)})
            self.frames.append(frame)
        for number in order:
            if frame is not None:
                frame.iteration = number
            with self.scope():
                self.ints[s.var] = firsts[number]
                if s.step is not None:
                    self.axes[s.var] = _Axis(firsts[number], min(step, stop - firsts[number]))
                self.body(s.body)
        if frame is not None:
            self.frames.pop()

    def store(self, s: Store) -> None:
        array = self.arrays[s.ref.name]
        dtype = self.dtypes[s.ref.name]
        value = self.operand(s.value, dtype)
        access = self.access(s.ref)
        if not np.all(access.inside):
            where = self.first(access, ~access.inside)
            raise self.error(f"a store outside '{s.ref.name}' {array.shape}: at {where}")
        flat = access.flat.reshape(-1)
        if np.unique(flat).size != flat.size:
            raise self.error(f"two lanes store to the same element of '{s.ref.name}'")
        for frame in self.frames:
            clash = frame.writes(s.ref.name, flat)
            if clash:
                raise self.error(
                    f"a race: another iteration of '{frame.var}' {clash} the same element of '{s.ref.name}'"
                )
        self.written[s.ref.name][flat] = True
        if flat.size:
            array[access.indices] = np.broadcast_to(self.aligned(value, access.axes), access.inside.shape)

    # ------------------------------------------------------------------------------------------------------ accesses

    def int_value(self, expr: IntExpr) -> int:
        try:
            return evaluate(expr, self.ints)
        except ZeroDivisionError:
            raise self.error("division by zero in an integer expression") from None

    def size(self, size: str | int) -> int:
        return self.ints[size] if isinstance(size, str) else size

    def access(self, ref: TensorRef) -> _Access:
        found: list[tuple[Array, tuple[str, ...]]] = []
        for index in ref.indices:
            if isinstance(index, At):
                found.append((np.asarray(self.int_value(index.index), dtype=np.int64), ()))
            elif isinstance(index, Gather):
                tile = self.tiles[index.tile]
                found.append((tile.data.astype(np.int64), tile.axes))
            else:
                assert isinstance(index, Span)
                found.append((self.lanes(index.axis) + self.int_value(index.shift), (index.axis,)))
        axes = self.ordered({a for _, own in found for a in own})
        shape = tuple(self.axes[a].live for a in axes)
        indices = tuple(np.broadcast_to(self.spread(data, own, axes), shape) for data, own in found)
        inside = np.ones(shape, dtype=np.bool_)
        flat = np.zeros(shape, dtype=np.int64)
        for i, size in zip(indices, self.arrays[ref.name].shape, strict=True):
            inside &= (i >= 0) & (i < size)
            flat = flat * size + i
        return _Access(axes, indices, inside, flat)

    @staticmethod
    def first(access: _Access, wrong: Array) -> tuple[int, ...]:
        at = tuple(int(n) for n in np.argwhere(wrong)[0])
        return tuple(int(i[at]) for i in access.indices)

    def lanes(self, axis: str) -> Array:
        a = self.axes[axis]
        return np.arange(a.start, a.start + a.live, dtype=np.int64)

    def ordered(self, axes: set[str]) -> tuple[str, ...]:
        return tuple(a for a in self.axes if a in axes)

    @staticmethod
    def spread(data: Array, own: tuple[str, ...], axes: tuple[str, ...]) -> Array:
        """With a dimension of 1 for each of `axes` it lacks."""
        sizes = iter(data.shape)
        return data.reshape([next(sizes) if a in own else 1 for a in axes])

    def aligned(self, tile: _Tile, axes: tuple[str, ...]) -> Array:
        return self.spread(tile.data, tile.axes, axes)

    def load(self, e: Load) -> _Tile:
        name = e.ref.name
        array, dtype = self.arrays[name], self.dtypes[name]
        access = self.access(e.ref)
        axes, live = access.axes, access.inside
        indices, flat = access.indices, access.flat
        if e.where is not None:
            mask = self.operand(e.where, DType.BOOL)
            axes = self.ordered({*axes, *mask.axes})
            shape = tuple(self.axes[a].live for a in axes)
            live = np.broadcast_to(self.spread(live, access.axes, axes) & self.aligned(mask, axes), shape)
            indices = tuple(np.broadcast_to(self.spread(i, access.axes, axes), shape) for i in indices)
            flat = np.broadcast_to(self.spread(flat, access.axes, axes), shape)
        self.touch(name, np.unique(flat[live]))
        data = np.full(live.shape, numerics.literal(e.other, dtype))
        if np.any(live):
            data = np.where(live, array[tuple(np.where(live, i, 0) for i in indices)], data)
        return _Tile(data, dtype, axes)

    def touch(self, name: str, flat: Array) -> None:
        if name in self.written and not np.all(self.written[name][flat]):
            # Before the races: in this order of the iterations it was not written yet, in another it would have been.
            racing = any(name in f.writers for f in self.frames)
            extra = " (or another iteration of a parallel loop writes it: a race)" if racing else ""
            raise self.error(f"an element of '{name}' is read that nothing has stored{extra}")
        for frame in self.frames:
            if frame.reads(name, flat):
                raise self.error(
                    f"a race: another iteration of '{frame.var}' stores to an element of '{name}' read here"
                )

    # --------------------------------------------------------------------------------------------- tile expressions

    def operand(self, e: TileExpr, dtype: DType) -> _Tile:
        """A tile; a literal without a dtype takes `dtype`."""
        if isinstance(e, Literal):
            own = e.dtype or dtype
            return _Tile(numerics.literal(e.value, own), own, ())
        return self.expr(e)

    def expr(self, e: TileExpr) -> _Tile:
        if isinstance(e, Name):
            return self.tiles[e.name]
        if isinstance(e, Literal):
            return self.operand(e, _natural(e))
        if isinstance(e, IndexValue):
            return _Tile(np.asarray(self.int_value(e.expr), dtype=np.int64), DType.I64, ())
        if isinstance(e, Lanes):
            return _Tile(self.lanes(e.axis), DType.I64, (e.axis,))
        if isinstance(e, Load):
            return self.load(e)
        if isinstance(e, Op):
            return self.op(e)
        if isinstance(e, Cast):
            x = self.expr(e.x)
            return _Tile(numerics.cast(x.data, x.dtype, e.dtype), e.dtype, x.axes)
        if isinstance(e, Reduce):
            return self.reduce(e)
        if isinstance(e, Scan):
            x = self.expr(e.x)
            return _Tile(numerics.scan(e.op, x.data, x.dtype, x.axes.index(e.axis)), x.dtype, x.axes)
        a, b = self.expr(e.a), self.expr(e.b)
        axes = self.ordered({*a.axes, *b.axes})
        at = axes.index(e.axis)
        data = numerics.dot(self.aligned(a, axes), self.aligned(b, axes), at, e.precision, a.dtype)
        return _Tile(data, DType.F64 if a.dtype is DType.F64 else DType.F32, axes[:at] + axes[at + 1 :])

    def op(self, e: Op) -> _Tile:
        info = OPS[e.name]
        select = info.rule is Rule.SELECT
        known = [self.expr(a) if not (isinstance(a, Literal) and a.dtype is None) else None for a in e.args]
        dtype = next(t.dtype for t in known[1 if select else 0 :] if t is not None)
        tiles = [
            t if t is not None else self.operand(a, DType.BOOL if select and n == 0 else dtype)
            for n, (a, t) in enumerate(zip(e.args, known, strict=True))
        ]
        axes = self.ordered({a for t in tiles for a in t.axes})
        data = numerics.elementwise(e.name, dtype, [self.aligned(t, axes) for t in tiles])
        return _Tile(data, DType.BOOL if info.rule in (Rule.COMPARE, Rule.TEST) else dtype, axes)

    def reduce(self, e: Reduce) -> _Tile:
        x = self.expr(e.x)
        at = x.axes.index(e.axis)
        positional = e.op.startswith("arg")
        if positional and x.data.shape[at] == 0:
            raise self.error(f"reduce_{e.op} over axis '{e.axis}', which has no lanes")
        data = numerics.reduce(e.op, x.data, x.dtype, at)
        if positional:
            data = data + self.axes[e.axis].start
        return _Tile(np.asarray(data), DType.I64 if positional else x.dtype, x.axes[:at] + x.axes[at + 1 :])


def _natural(e: Literal) -> DType:
    """The dtype of a literal that is only cast: nothing else gives it one."""
    if isinstance(e.value, bool):
        return DType.BOOL
    return DType.I64 if isinstance(e.value, int) else DType.F64


def _stored(body: tuple[Stmt, ...]) -> set[str]:
    names: set[str] = set()
    for s in body:
        if isinstance(s, Store):
            names.add(s.ref.name)
        elif isinstance(s, For):
            names |= _stored(s.body)
    return names


__all__ = ["as_declared", "interpret"]
