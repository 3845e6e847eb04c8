"""Random well-formed sketches with inputs for them: what an interpreter and a lowering must agree on.

Values are kept where small errors stay small: what jumps (comparisons, rounding, float to integer) is applied to values
that come straight from memory, denominators are away from zero, exponentials are bounded. So two right implementations
differ by roundings only, and `assert_agree` can be strict.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from akg_dynamo.agents.sketch.ast import DType, Sketch
from akg_dynamo.agents.sketch.build import (
    Axis,
    Int,
    SketchBuilder,
    Tensor,
    Tile,
    dot,
    index,
    literal,
    op,
    reduce,
    scan,
)
from akg_dynamo.agents.sketch.numerics import numpy_dtype

Array = np.ndarray[Any, np.dtype[Any]]
Result = tuple[Sketch, dict[str, Array], dict[str, int]]

FLOATS = tuple(d for d in DType if d.is_float)
RELATIVE = {DType.F64: 1e-11, DType.F32: 2e-5, DType.F16: 2e-2, DType.BF16: 1e-1}


def assert_agree(sketch: Sketch, got: dict[str, Array], want: dict[str, Array]) -> None:
    """Every output equal; floats but for what another order of summation or another exp changes."""
    for decl in sketch.tensors:
        if decl.kind != "out":
            continue
        a, b = got[decl.name], want[decl.name]
        if not decl.dtype.is_float:
            np.testing.assert_array_equal(a, b, err_msg=decl.name)
            continue
        a, b = a.astype(np.float64), b.astype(np.float64)
        finite = np.abs(b[np.isfinite(b)])
        bound = RELATIVE[decl.dtype] * max(1.0, float(finite.max()) if finite.size else 1.0)
        np.testing.assert_allclose(a, b, rtol=RELATIVE[decl.dtype], atol=bound, err_msg=decl.name)


def random_sketch(rng: np.random.Generator) -> Result:
    """A sketch, an array for each "in" and "out" tensor (outputs filled with rubbish), and its symbols' values.

    The arrays have the strides that the sketch declares, so a kernel can be given their addresses as they are.
    """
    makers: tuple[Callable[[_Maker], None], ...] = (
        _pointwise,
        _pointwise,
        _reductions,
        _reductions,
        _normalise,
        _scan,
        _dot,
        _gather,
        _stencil,
        _split,
        _scatter,
        _permuted,
    )
    maker = _Maker(rng)
    makers[rng.integers(len(makers))](maker)
    return maker.result()


class _Maker:
    """A sketch in the making: the builder, sizes, data, and random expressions."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.b = SketchBuilder("random")
        self.sizes: dict[str, int] = {}
        self.arrays: dict[str, Array] = {}
        self.outputs: list[tuple[str, tuple[int, ...], DType]] = []
        self.special = bool(rng.random() < 0.25)

    def result(self) -> Result:
        for name, shape, dtype in self.outputs:
            rubbish = self.rng.integers(0, 2, shape)
            self.arrays[name] = np.asarray(rubbish).astype(numpy_dtype(dtype))
        return self.b.build(), self.arrays, self.sizes

    def pick(self, *choices: Any) -> Any:
        return choices[int(self.rng.integers(len(choices)))]

    def pick_tile(self, tiles: list[Tile]) -> Tile:
        return tiles[int(self.rng.integers(len(tiles)))]

    def symbol(self, name: str, low: int = 1, high: int = 40) -> Int:
        """A size; small ones, multiples of tiles and tails all occur."""
        self.sizes[name] = int(self.pick(low, self.rng.integers(low, high), self.rng.integers(low, high), max(low, 16)))
        return self.b.symbols(name)[0]

    def step(self, name: str) -> str | int:
        value = int(self.pick(1, 4, 8, 16, 32))
        return value if self.rng.random() < 0.2 else self.b.constexpr(name, value)

    def hints(self, *, parallel: bool) -> tuple[str, ...]:
        return ("parallel", *self.pick((), ("coreidx",))) if parallel else self.pick((), ("vectorize",))

    def data(self, shape: tuple[int, ...], dtype: DType) -> Array:
        rng = self.rng
        if dtype is DType.BOOL:
            return np.asarray(rng.random(shape) < 0.5)
        if dtype.is_int:
            low = 0 if dtype is DType.U8 else -9
            return np.asarray(rng.integers(low, 10, shape)).astype(numpy_dtype(dtype))
        x = np.asarray(rng.normal(size=shape))
        if self.special:
            x = np.where(rng.random(shape) < 0.05, rng.choice([np.nan, np.inf, -np.inf, 0.0, -0.0], shape), x)
        return np.asarray(x).astype(np.float32).astype(numpy_dtype(dtype))

    def value(self, expr: Any) -> int:
        from akg_dynamo.agents.sketch.intexpr import evaluate

        return evaluate(expr, self.sizes | {c.name: c.value for c in self.b.build().constexprs})

    def input(self, name: str, shape: list[Int | int], dtype: DType, strides: list[Int | int] | None = None) -> Tensor:
        t = self.b.tensor(name, shape, dtype, "in", strides)
        self.arrays[name] = self.data(tuple(self.value(d) for d in t.decl.shape), dtype)
        return t

    def output(self, name: str, shape: list[Int | int], dtype: DType) -> Tensor:
        t = self.b.tensor(name, shape, dtype, "out")
        self.outputs.append((name, tuple(self.value(d) for d in t.decl.shape), dtype))
        return t

    # Random expressions. `leaves` are tiles straight from memory, by dtype.

    def expr(self, dtype: DType, leaves: dict[str, tuple[Tile, DType]], depth: int) -> Tile:
        if depth == 0 or self.rng.random() < 0.1:
            return self.leaf(dtype, leaves)
        if dtype is DType.BOOL:
            return self.bool_expr(leaves, depth)
        return self.float_expr(dtype, leaves, depth) if dtype.is_float else self.int_expr(dtype, leaves, depth)

    def leaf(self, dtype: DType, leaves: dict[str, tuple[Tile, DType]]) -> Tile:
        own = [t for t, d in leaves.values() if d is dtype]
        if own and self.rng.random() < 0.8:
            return self.pick_tile(own)
        if self.rng.random() < 0.3 or not leaves:
            return self.literal(dtype)
        tile: Tile
        tile, source = self.pick(*leaves.values())
        if source.is_float and dtype.is_int:
            tile = op("where", op("abs", tile) < 100.0, tile, 0.0)
            if dtype is DType.U8:
                tile = op("abs", tile)
        return tile if source is dtype else tile.cast(dtype)

    def literal(self, dtype: DType) -> Tile:
        if dtype is DType.BOOL:
            return literal(bool(self.rng.random() < 0.5), dtype)
        if dtype.is_float:
            return literal(self.pick(0.5, 2.0, -1.25, 3, 1e-3), dtype)
        return literal(int(self.rng.integers(0, 8)), dtype)

    def compare(self, leaves: dict[str, tuple[Tile, DType]]) -> Tile:
        tile, dtype = self.pick(*leaves.values())
        return op(self.pick("eq", "ne", "lt", "le", "gt", "ge"), tile, self.leaf(dtype, {"x": (tile, dtype)} | leaves))

    def bool_expr(self, leaves: dict[str, tuple[Tile, DType]], depth: int) -> Tile:
        kind = int(self.rng.integers(4))
        if kind == 0:
            return ~self.expr(DType.BOOL, leaves, depth - 1)
        if kind == 1:
            name = self.pick("and", "or", "xor", "eq", "ne", "maximum", "minimum")
            return op(name, self.expr(DType.BOOL, leaves, depth - 1), self.expr(DType.BOOL, leaves, depth - 1))
        floats = [t for t, d in leaves.values() if d.is_float]
        if kind == 2 and floats:
            return op(self.pick("isnan", "isinf"), self.pick(*floats))
        return self.compare(leaves)

    def int_expr(self, dtype: DType, leaves: dict[str, tuple[Tile, DType]], depth: int) -> Tile:
        a, b = self.expr(dtype, leaves, depth - 1), self.expr(dtype, leaves, depth - 1)
        name = self.pick(
            "add", "sub", "mul", "maximum", "minimum", "and", "or", "xor", "floordiv", "mod", "fmod", "truncdiv", "shl",
            "shr", "pow", "neg", "abs", "sign", "not", "where", "fmax", "fmin",
        )  # fmt: skip
        if name in ("neg", "abs", "sign", "not"):
            return op(name, a)
        if name == "where":
            return op(name, self.compare(leaves), a, b)
        if name in ("floordiv", "mod", "fmod", "truncdiv"):
            b = op("maximum", b, 1)
            if dtype is not DType.U8 and self.rng.random() < 0.3:
                b = b * -1
                a = op("minimum", op("maximum", a, -100), 100)  # the least integer has no quotient by -1
        if name in ("shl", "shr"):
            b = op("minimum", op("maximum", b, 0), self.pick(3, 7))
        if name == "pow":
            b = op("minimum", op("maximum", b, 0), 4)
        return op(name, a, b)

    def float_expr(self, dtype: DType, leaves: dict[str, tuple[Tile, DType]], depth: int) -> Tile:
        a = self.expr(dtype, leaves, depth - 1)
        kind = int(self.rng.integers(8))
        if kind == 0:
            return op(self.pick("neg", "abs", "tanh", "sigmoid", "sin", "cos", "erf", "erfc", "atan", "asinh"), a)
        if kind == 1:
            inner = op("minimum", op("maximum", a, -3.0), 3.0)
            return op(self.pick("exp", "exp2", "expm1", "sinh", "cosh"), inner)
        if kind == 2:
            positive = op("minimum", op("abs", a), 1000.0) + 1.0
            return op(
                self.pick("sqrt", "rsqrt", "reciprocal", "log", "log2", "log10", "log1p", "acosh", "lgamma"), positive
            )
        if kind == 3:
            jumping = self.pick("floor", "ceil", "trunc", "round", "sign")
            return op(jumping, self.leaf(dtype, leaves))
        b = self.expr(dtype, leaves, depth - 1)
        if kind == 4:
            return a / (op("abs", b) + 1.0) if self.rng.random() < 0.7 else op("hypot", a, b)
        if kind == 5:
            return op("where", self.compare(leaves), a, b)
        if kind == 6:
            name = self.pick("maximum", "minimum", "fmax", "fmin")
            return op("fma", a, b, self.leaf(dtype, leaves)) if self.rng.random() < 0.3 else op(name, a, b)
        return op(self.pick("add", "sub", "mul"), a, b)

    def loads(
        self, axes: dict[str, tuple[Any, Int]], count: int, dtypes: tuple[DType, ...]
    ) -> dict[str, tuple[Tile, DType]]:
        """Loads of new inputs over random subsets of `axes` (an index and its size each), the first over all."""
        leaves: dict[str, tuple[Tile, DType]] = {}
        for n in range(count):
            used = [a for a in axes.values() if n == 0 or self.rng.random() < 0.7]
            dtype = self.pick(*dtypes)
            name = f"x{n}"
            shape: list[Int | int] = [size for _, size in used]
            strides: list[Int | int] | None = None
            if len(used) == 2 and self.rng.random() < 0.2:
                strides = [1, used[0][1]]
            tensor = self.input(name, shape, dtype, strides)
            if strides is not None:
                self.arrays[name] = np.asfortranarray(self.arrays[name])
            leaves[name] = (self.b.let(f"t{n}", tensor[tuple(i for i, _ in used)].load()), dtype)
        return leaves


def _pointwise(m: _Maker) -> None:
    rows, columns = m.symbol("M", 1, 12), m.symbol("N")
    step = m.step("BN")
    tiled = m.rng.random() < 0.4
    outer = (
        m.b.tiles("i", 0, rows, m.step("BM"), m.hints(parallel=True))
        if tiled
        else m.b.loop("i", 0, rows, m.hints(parallel=True))
    )
    count, dtypes = int(m.rng.integers(1, 4)), tuple(m.rng.choice(np.array(list(DType), dtype=object), 3))
    with outer as i, m.b.tiles("j", 0, columns, step, m.hints(parallel=bool(m.rng.random() < 0.3))) as j:
        leaves = m.loads({"i": (i, rows), "j": (j, columns)}, count, dtypes)
        leaves["lanes"] = (m.b.let("lane", j.lanes), DType.I64)
        for n in range(int(m.rng.integers(1, 3))):
            dtype = m.pick(*DType)
            y = m.output(f"y{n}", [rows, columns], dtype)
            value = m.b.let(f"v{n}", m.expr(dtype, leaves, int(m.rng.integers(1, 4))))
            m.b.store(y[i, j], value)


def _initial(name: str, dtype: DType) -> float | int | bool:
    if name in ("sum", "prod"):
        return 0 if name == "sum" else 1
    if name in ("any", "all"):
        return name == "all"
    if dtype.is_float:
        return float("-inf") if name == "max" else float("inf")
    info = np.iinfo(numpy_dtype(dtype))
    return int(info.min if name == "max" else info.max)


_COMBINE = {"sum": "add", "prod": "mul", "max": "maximum", "min": "minimum", "any": "or", "all": "and"}


def _reductions(m: _Maker) -> None:
    """Several reductions over one read, carried from tile to tile; arg* within one tile, combined by hand."""
    rows, columns = m.symbol("M", 1, 12), m.symbol("N")
    step = m.step("BN")
    source = m.pick(*DType)
    x = m.input("x", [rows, columns], source)
    column_major = m.rng.random() < 0.3
    outer = m.b.tiles("i", 0, rows, m.step("BM"), m.hints(parallel=True))
    names = ["any", "all"] if source is DType.BOOL else ["sum", "max", "min", "prod" if source.is_int else "sum"]
    wide = m.pick(DType.F32, DType.F64) if source.is_float else source
    with outer as i:
        accumulators = []
        for n in range(int(m.rng.integers(1, 3))):
            name = m.pick(*names)
            acc = m.b.alloc(f"a{n}", [i], wide, _initial(name, wide))
            accumulators.append((f"a{n}", name, acc))
        positional = source is not DType.BOOL and m.rng.random() < 0.4
        if positional:
            best = m.b.alloc("best", [i], source, _initial("max", source))
            place = m.b.alloc("place", [i], DType.I64, -1)
        with m.b.tiles("j", 0, columns, step, m.hints(parallel=False)) as j:
            t = m.b.let("t", x[i, j].load())
            used = m.b.let("u", t.cast(wide)) if wide is not source else t
            for label, name, acc in accumulators:
                operand = used * used if name == "sum" and column_major else used
                m.b.let(label, op(_COMBINE[name], acc, reduce(name, operand, j)))
            if positional:
                top = m.b.let("top", reduce("max", t, j))
                # Another tile's extreme replaces ours when it is larger, or the first NaN.
                better = (top > best) | (op("ne", top, top) & op("eq", best, best)) | (place < 0)
                m.b.let("place", op("where", better, reduce("argmax", t, j), place))
                m.b.let("best", op("where", better, top, best))
        for n, (_, _, acc) in enumerate(accumulators):
            m.b.store(m.output(f"y{n}", [rows], wide)[i], acc)
        if positional:
            m.b.store(m.output("where_max", [rows], DType.I64)[i], place)


def _normalise(m: _Maker) -> None:
    """Softmax or a norm: reductions, then a second pass over the same rows, in any float."""
    rows, columns = m.symbol("M", 1, 12), m.symbol("N")
    dtype = m.pick(*FLOATS)
    wide = DType.F64 if dtype is DType.F64 else DType.F32
    x, w = m.input("x", [rows, columns], dtype), m.input("w", [columns], dtype)
    y = m.output("y", [rows, columns], dtype)
    step = m.step("BN")
    softmax = m.rng.random() < 0.5
    with m.b.loop("i", 0, rows, m.hints(parallel=True)) as i:
        top = m.b.alloc("top", [], wide, float("-inf"))
        total = m.b.alloc("total", [], wide, 0.0)
        if softmax:
            with m.b.tiles("j", 0, columns, step) as j:
                m.b.let("top", op("maximum", top, reduce("max", x[i, j].load().cast(wide), j)))
        with m.b.tiles("j", 0, columns, step) as j:
            t = x[i, j].load().cast(wide)
            m.b.let("total", total + reduce("sum", op("exp", t - top) if softmax else t * t, j))
        with m.b.tiles("j", 0, columns, step) as j:
            t = m.b.let("t", x[i, j].load().cast(wide))
            scale = op("rsqrt", total / index(columns).cast(wide) + 1e-5)
            value = op("exp", t - top) / total if softmax else t * scale
            m.b.store(y[i, j], (value * w[j].load().cast(wide)).cast(dtype))


def _scan(m: _Maker) -> None:
    rows, columns = m.symbol("M", 1, 12), m.symbol("N")
    dtype = m.pick(DType.F32, DType.F64, DType.I64, DType.I32)
    name = m.pick("sum", "max", "min")
    x, y = m.input("x", [rows, columns], dtype), m.output("y", [rows, columns], dtype)
    with m.b.tiles("i", 0, rows, m.step("BM"), m.hints(parallel=True)) as i:
        carry = m.b.alloc("carry", [i], dtype, _initial(name, dtype))
        with m.b.tiles("j", 0, columns, m.step("BN")) as j:
            t = m.b.let("t", x[i, j].load())
            m.b.store(y[i, j], op(_COMBINE[name], carry, scan(name, t, j)))
            m.b.let("carry", op(_COMBINE[name], carry, reduce(name, t, j)))


def _dot(m: _Maker) -> None:
    rows, columns, inner = m.symbol("M", 1, 20), m.symbol("N", 1, 30), m.symbol("K", 1, 30)
    dtype = m.pick(*FLOATS)
    wide = DType.F64 if dtype is DType.F64 else DType.F32
    transposed = bool(m.rng.random() < 0.5)
    a = m.input("a", [rows, inner], dtype)
    c = m.input("c", [columns, inner] if transposed else [inner, columns], dtype)
    bias, y = m.input("bias", [columns], dtype), m.output("y", [rows, columns], dtype)
    with (
        m.b.tiles("i", 0, rows, m.step("BM"), m.hints(parallel=True)) as i,
        m.b.tiles("j", 0, columns, m.step("BN")) as j,
    ):
        acc = m.b.alloc("acc", [i, j], wide, 0.0)
        with m.b.tiles("k", 0, inner, m.step("BK"), ("pipeline",)) as k:
            right = c[j, k] if transposed else c[k, j]
            m.b.let("acc", acc + dot(a[i, k].load(), right.load(), k))
        value = op("tanh", acc) if m.rng.random() < 0.5 else acc
        m.b.store(y[i, j], (value + bias[j].load().cast(wide)).cast(dtype))


def _gather(m: _Maker) -> None:
    """Rows by index, some out of bounds (they read `other`); some masked."""
    height, width, count = m.symbol("V", 1, 20), m.symbol("D"), m.symbol("N", 1, 20)
    dtype, kind = m.pick(*DType), m.pick(DType.I64, DType.I32)
    table, y = m.input("table", [height, width], dtype), m.output("y", [count, width], dtype)
    where_to = m.input("indices", [count], kind)
    high = m.sizes["V"]
    m.arrays["indices"] = m.rng.integers(-2, high + 2, m.sizes["N"]).astype(numpy_dtype(kind))
    other: float | int | bool = bool(m.rng.random() < 0.5) if dtype is DType.BOOL else m.pick(0, 1, 3)
    masked = bool(m.rng.random() < 0.5)
    with m.b.tiles("n", 0, count, m.step("BN"), m.hints(parallel=True)) as n:
        row = m.b.let("row", where_to[n].load())
        with m.b.tiles("d", 0, width, m.step("BD")) as d:
            mask = (d.lanes % 3 > 0) & (row.cast(DType.I64) >= 1) if masked else None
            m.b.store(y[n, d], table[row, d].load(other, mask))


def _stencil(m: _Maker) -> None:
    """Shifted slices, out of bounds at both ends; the shift a constant or a symbol."""
    rows, columns = m.symbol("M", 1, 8), m.symbol("N")
    reach: Int | int = m.symbol("R", 1, 5) if m.rng.random() < 0.5 else int(m.rng.integers(1, 5))
    dtype = m.pick(DType.F32, DType.F64, DType.I32, DType.U8, DType.BF16)
    x, y = m.input("x", [rows, columns], dtype), m.output("y", [rows, columns], dtype)
    other = m.pick(0, 1, 2)
    with m.b.loop("i", 0, rows, m.hints(parallel=True)) as i, m.b.tiles("j", 0, columns, m.step("BN")) as j:
        left, right = m.b.let("l", x[i, j - reach].load(other)), m.b.let("r", x[i, j + reach].load(other))
        above = m.b.let("above", x[i - 1, j].load(other))
        m.b.store(y[i, j], op("maximum", left, right) + x[i, j].load() - above)


def _split(m: _Maker) -> None:
    """Two phases: partial sums of parallel tiles in a tmp, then their sum; a third that uses it."""
    columns = m.symbol("N", 1, 90)
    dtype = m.pick(DType.F32, DType.F64, DType.I64, DType.I32)
    tile = int(m.pick(4, 8, 16))
    step = m.b.constexpr("BN", tile)
    x = m.input("x", [columns], dtype)
    parts = columns.ceil_div(tile)
    tmp = m.b.tensor("partial", [parts], dtype, "tmp")
    total = m.output("total", [], dtype)
    y = m.output("y", [columns], dtype)
    with m.b.tiles("j", 0, columns, step, m.hints(parallel=True)) as j:
        m.b.store(tmp[j.first // tile], reduce("sum", x[j].load(), j))
    acc = m.b.alloc("acc", [], dtype, 0)
    with m.b.tiles("p", 0, parts, m.step("BP")) as p:
        m.b.let("acc", acc + reduce("sum", tmp[p].load(), p))
    m.b.store(total[()], acc)
    with m.b.tiles("j", 0, columns, step, m.hints(parallel=True)) as j:
        m.b.store(y[j], x[j].load() - total[()].load())


def _scatter(m: _Maker) -> None:
    """Stores through an index tile that is a permutation."""
    count, width = m.symbol("N", 1, 24), m.symbol("D", 1, 20)
    dtype = m.pick(*DType)
    where_to = m.input("places", [count], DType.I64)
    m.arrays["places"] = m.rng.permutation(m.sizes["N"]).astype(np.int64)
    x, y = m.input("x", [count, width], dtype), m.output("y", [count, width], dtype)
    with m.b.tiles("n", 0, count, m.step("BN"), m.hints(parallel=True)) as n:
        place = m.b.let("place", where_to[n].load())
        with m.b.tiles("d", 0, width, m.step("BD")) as d:
            m.b.store(y[place, d], x[n, d].load())


def _permuted(m: _Maker) -> None:
    """A transpose through an axis that is not a loop, with a broadcast input of stride 0."""
    rows, columns = m.symbol("M", 1, 16), m.symbol("N", 1, 30)
    dtype = m.pick(*DType)
    x = m.input("x", [rows, columns], dtype)
    row = m.input("row", [columns, rows], dtype, [1, 0])
    m.arrays["row"] = np.broadcast_to(m.arrays["row"][:, :1].copy(), m.arrays["row"].shape)
    y = m.output("y", [columns, rows], dtype)
    with m.b.tiles("j", 0, columns, m.step("BN"), m.hints(parallel=True)) as j:
        i: Axis = m.b.axis("i", 0, rows, 64)
        m.b.store(y[j, i], op("maximum", x[i, j].load(), row[j, i].load()))
