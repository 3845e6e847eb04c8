"""Every elementwise operation on every dtype, in vectors, on their tails and in scalars, against the interpreter."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from lowered import Array, execute

from akg_dynamo.agents.sketch import ast as sk
from akg_dynamo.agents.sketch import interpret
from akg_dynamo.agents.sketch.ast import DType
from akg_dynamo.agents.sketch.numerics import numpy_dtype
from akg_dynamo.agents.sketch.ops import OPS, Rule

SIZE = 1027
EXACT = (
    "add", "sub", "mul", "div", "maximum", "minimum", "fmax", "fmin", "copysign", "neg", "abs", "sign", "sqrt", "floor",
    "ceil", "trunc", "round", "where", "fmod", "mod", "floordiv", "nextafter",
)  # fmt: skip
# What jumps: a function a little off at the edge of its domain may differ by more than a rounding.
ULPS = {DType.F64: 4, DType.F32: 4, DType.F16: 1, DType.BF16: 1}
LOOSE = {"lgamma": 2000, "tan": 8, "rsqrt": 4}


def applicable(dtype: DType) -> list[str]:
    names = []
    for info in OPS.values():
        fits = {
            Rule.ARITH: dtype is not DType.BOOL, Rule.FLOAT: dtype.is_float, Rule.INT: dtype.is_int,
            Rule.BITS: not dtype.is_float, Rule.ANY: True, Rule.COMPARE: True, Rule.TEST: dtype.is_float,
            Rule.SELECT: True, Rule.INDEX: False,
        }  # fmt: skip
        if fits[info.rule]:
            names.append(info.name)
    return names


def values(dtype: DType, rng: np.random.Generator, size: int) -> Array:
    target = numpy_dtype(dtype)
    if dtype is DType.BOOL:
        return rng.integers(0, 2, size).astype(bool)
    if dtype.is_int:
        info = np.iinfo(target)
        small = rng.integers(0 if dtype is DType.U8 else -9, 10, size)
        wide = rng.integers(info.min, info.max, size, endpoint=True, dtype=np.int64)
        out = np.where(rng.random(size) < 0.6, small, wide).astype(target)
        out[:4] = [info.min, info.max, 0, 1]
        return out
    scale = np.where(rng.random(size) < 0.5, 1.0, np.where(rng.random(size) < 0.5, 30.0, 1e-3))
    out = (rng.standard_normal(size) * scale).astype(target)
    info = {
        DType.F64: (2.2e-308, 1e150),
        DType.F32: (1.1e-38, 3e38),
        DType.F16: (6e-5, 6e4),
        DType.BF16: (1.1e-38, 3e38),
    }[dtype]
    special = [
        0.0,
        -0.0,
        np.inf,
        -np.inf,
        np.nan,
        1.0,
        -1.0,
        0.5,
        2.0,
        -2.5,
        1.5,
        info[0] / 4,
        -info[0] / 4,
        info[0],
        info[1],
        -info[1],
        88.7,
        -88.7,
        -103.0,
        1e4,
    ]
    at = rng.integers(0, size, 6 * len(special))
    out[at] = np.resize(np.array(special), at.size).astype(target)
    return out


def elementwise(dtype: DType, names: list[str], in_vectors: bool) -> sk.Sketch:
    """One kernel with every operation; scalars by a loop without lanes."""
    size = sk.IntVar("N")
    kinds = {"a": dtype, "b": dtype, "c": dtype, "m": DType.BOOL}
    tensors = [sk.TensorDecl(n, (size,), d, "in") for n, d in kinds.items()]
    index: sk.Index = sk.Span("i") if in_vectors else sk.At(sk.IntVar("i"))
    body: list[sk.Stmt] = [sk.Assign(f"{n}_", sk.Load(sk.TensorRef(n, (index,)))) for n in kinds]
    for name in names:
        info = OPS[name]
        out = DType.BOOL if info.rule in (Rule.COMPARE, Rule.TEST) else dtype
        tensors.append(sk.TensorDecl(f"y_{name}", (size,), out, "out"))
        args = ("m_", "a_", "b_") if info.rule is Rule.SELECT else ("a_", "b_", "c_")[: info.arity]
        body.append(sk.Store(sk.Op(name, tuple(sk.Name(a) for a in args)), sk.TensorRef(f"y_{name}", (index,))))
    loop = sk.For("i", sk.IntConst(0), size, "B" if in_vectors else None, tuple(body), ("parallel",))
    return sk.Sketch(f"ops_{dtype.value}", ("N",), tuple(tensors), (sk.ConstExpr("B", 256),), (loop,))


def assert_close(name: str, dtype: DType, got: Array, want: Array, args: list[Array]) -> None:
    if not dtype.is_float or got.dtype == bool:
        wrong = np.flatnonzero(got != want)
        assert not wrong.size, (
            f"{name} {dtype.value}: {[(a[wrong[0]]) for a in args]} gives {got[wrong[0]]}, not {want[wrong[0]]}"
        )
        return
    g, w = got.astype(np.float64), want.astype(np.float64)
    np.testing.assert_array_equal(np.isnan(g), np.isnan(w), err_msg=name)
    live = ~np.isnan(w)
    if name in EXACT:
        same = (g == w) & (np.signbit(g) == np.signbit(w))
    else:
        spacing = np.spacing(np.abs(want)).astype(np.float64)
        with np.errstate(invalid="ignore"):
            same = (g == w) | (
                np.abs(g - w)
                <= max(ULPS[dtype], LOOSE.get(name, 0) if dtype in (DType.F32, DType.F64) else 0) * np.abs(spacing)
            )
    wrong = np.flatnonzero(live & ~same)
    assert not wrong.size, (
        f"{name} {dtype.value}: {[a[wrong[:5]] for a in args]} gives {got[wrong[:5]]}, not {want[wrong[:5]]}"
    )


@pytest.mark.parametrize(
    ("dtype", "in_vectors"), list(itertools.product(DType, [True, False])), ids=lambda p: getattr(p, "value", p)
)
def test_every_operation(dtype: DType, in_vectors: bool) -> None:
    rng = np.random.default_rng(1)
    names = applicable(dtype)
    sketch = elementwise(dtype, names, in_vectors)
    size = SIZE if in_vectors else 400
    tensors: dict[str, Array] = {n: values(dtype, rng, size) for n in "abc"}
    if dtype.is_int:
        tensors["b"][tensors["b"] == 0] = 3  # dividing by zero is an error in the interpreter
    tensors["m"] = values(DType.BOOL, rng, size)
    for decl in sketch.tensors:
        if decl.kind == "out":
            tensors[decl.name] = np.zeros(size, numpy_dtype(decl.dtype))
    want = {n: t.copy() for n, t in tensors.items()}
    with np.errstate(all="ignore"):
        interpret(sketch, want, {"N": size})
    execute(sketch, tensors, {"N": size})
    problems = []
    for name in names:
        try:
            assert_close(
                name, dtype, tensors[f"y_{name}"], want[f"y_{name}"], [tensors[n] for n in "abc"[: OPS[name].arity]]
            )
        except AssertionError as e:
            problems.append(str(e)[:400])
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("dtype", [d for d in DType if d.is_int], ids=lambda d: d.value)
@pytest.mark.parametrize("in_vectors", [True, False])
def test_by_constants(dtype: DType, in_vectors: bool) -> None:
    """Shifts and divisions whose right side is a literal: powers of two have forms of their own."""
    size, bits = sk.IntVar("N"), 8 * dtype.size_bytes
    index: sk.Index = sk.Span("i") if in_vectors else sk.At(sk.IntVar("i"))
    cases = [(name, b) for name in ("shl", "shr") for b in (0, 1, bits - 1, bits, -1)]
    cases += [(name, b) for name in ("floordiv", "mod", "truncdiv", "fmod") for b in (1, 2, 64, 3, -1, -4)]
    if dtype is DType.U8:
        cases = [(name, b) for name, b in cases if b >= 0]
    tensors = [sk.TensorDecl("a", (size,), dtype, "in")]
    body: list[sk.Stmt] = [sk.Assign("t", sk.Load(sk.TensorRef("a", (index,))))]
    for at, (name, b) in enumerate(cases):
        tensors.append(sk.TensorDecl(f"y{at}", (size,), dtype, "out"))
        body.append(sk.Store(sk.Op(name, (sk.Name("t"), sk.Literal(b))), sk.TensorRef(f"y{at}", (index,))))
    loop = sk.For("i", sk.IntConst(0), size, 128 if in_vectors else None, tuple(body))
    sketch = sk.Sketch(f"by_{dtype.value}", ("N",), tuple(tensors), (), (loop,))
    arrays = {"a": values(dtype, np.random.default_rng(3), 333)}
    arrays |= {f"y{at}": np.zeros(333, numpy_dtype(dtype)) for at in range(len(cases))}
    want = {n: t.copy() for n, t in arrays.items()}
    with np.errstate(all="ignore"):
        interpret(sketch, want, {"N": 333})
    execute(sketch, arrays, {"N": 333})
    for at, (name, b) in enumerate(cases):
        assert_close(f"{name} by {b}", dtype, arrays[f"y{at}"], want[f"y{at}"], [arrays["a"]])


@pytest.mark.parametrize("dtype", [d for d in DType if d.is_int], ids=lambda d: d.value)
def test_divisions_near_multiples(dtype: DType) -> None:
    """Where a quotient that was computed in floating point could come out one off; and the extremes."""
    rng = np.random.default_rng(4)
    names = ["floordiv", "mod", "truncdiv", "fmod"]
    sketch = elementwise(dtype, names, in_vectors=True)
    info, target = np.iinfo(numpy_dtype(dtype)), numpy_dtype(dtype)
    for largest in (info.max, min(info.max, (1 << 50) - 1)):
        low = max(info.min, -largest - 1)
        b = rng.integers(1, largest, 4000, endpoint=True, dtype=np.int64) >> rng.integers(0, info.bits, 4000)
        b = np.where(b == 0, 1, b)
        k = rng.integers(0, largest, 4000, dtype=np.int64) // b
        a = np.clip(k * b + rng.integers(-1, 2, 4000), 0, largest)
        if dtype is not DType.U8:
            a, b = a * rng.choice([-1, 1], 4000), b * rng.choice([-1, 1], 4000)
            b[:6], a[:6] = (-1, 1, -1, 1, 2, -2), (low, low, largest, largest, low, low)
        tensors: dict[str, Array] = {"a": a.astype(target), "b": b.astype(target)}
        tensors |= {"c": tensors["a"], "m": np.zeros(4000, bool)}
        tensors |= {f"y_{n}": np.zeros(4000, target) for n in names}
        want = {n: t.copy() for n, t in tensors.items()}
        with np.errstate(all="ignore"):
            interpret(sketch, want, {"N": 4000})
        execute(sketch, tensors, {"N": 4000})
        for name in names:
            assert_close(name, dtype, tensors[f"y_{name}"], want[f"y_{name}"], [tensors["a"], tensors["b"]])


@pytest.mark.parametrize("dtype", [DType.F32, DType.F64, DType.BF16], ids=lambda d: d.value)
def test_float_remainders(dtype: DType) -> None:
    """Near multiples, with quotients of all sizes, and with infinities on either side."""
    rng = np.random.default_rng(5)
    names = ["floordiv", "mod", "fmod"]
    sketch = elementwise(dtype, names, in_vectors=True)
    target = numpy_dtype(dtype)
    b = (rng.standard_normal(4096) * 10.0 ** rng.integers(-3, 4, 4096)).astype(target)
    k = rng.integers(-(1 << 18), 1 << 18, 4096) >> rng.integers(0, 18, 4096)
    a = (b.astype(np.float64) * k).astype(target)
    a[::5] = np.nextafter(a[::5].astype(np.float32), np.float32(0)).astype(target)
    a[1::64], b[2::64], a[3::64], b[3::64] = np.inf, -np.inf, 0.0, -0.0
    a[1024:1040] = np.float64(1e30)  # quotients that floating point does not hold
    tensors: dict[str, Array] = {"a": a, "b": b, "c": a, "m": np.zeros(4096, bool)}
    tensors |= {f"y_{n}": np.zeros(4096, target) for n in names}
    want = {n: t.copy() for n, t in tensors.items()}
    with np.errstate(all="ignore"):
        interpret(sketch, want, {"N": 4096})
    execute(sketch, tensors, {"N": 4096})
    for name in names:
        assert_close(name, dtype, tensors[f"y_{name}"], want[f"y_{name}"], [a, b])


@pytest.mark.parametrize("widest", [1, 2, 4, 8])
def test_casts_in_vectors_of_every_width(widest: int) -> None:
    """A kernel's vectors are as long as its widest dtype allows, so each cast has several forms."""
    size = sk.IntVar("N")
    dtypes = [d for d in DType if d.size_bytes <= widest and (widest > 2 or not d.is_float)]
    tensors, body, arrays = [], [], {}
    for source in dtypes:
        tensors.append(sk.TensorDecl(f"x_{source.value}", (size,), source, "in"))
        load = sk.Load(sk.TensorRef(f"x_{source.value}", (sk.Span("i"),)))
        arrays[f"x_{source.value}"] = (np.arange(333) * 7 % 120).astype(numpy_dtype(source))
        if source is not DType.U8 and source is not DType.BOOL:
            arrays[f"x_{source.value}"][::2] *= -1
        for target in dtypes:
            if target is DType.U8 and source.is_float:
                continue  # negative floats are undefined there
            name = f"{source.value}_{target.value}"
            tensors.append(sk.TensorDecl(name, (size,), target, "out"))
            body.append(sk.Store(sk.Cast(load, target), sk.TensorRef(name, (sk.Span("i"),))))
            arrays[name] = np.zeros(333, numpy_dtype(target))
    loop = sk.For("i", sk.IntConst(0), size, 128, tuple(body))
    sketch = sk.Sketch(f"casts_{widest}", ("N",), tuple(tensors), (), (loop,))
    want = {n: t.copy() for n, t in arrays.items()}
    interpret(sketch, want, {"N": 333})
    execute(sketch, arrays, {"N": 333})
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, want[name], err_msg=name)


@pytest.mark.parametrize("source", DType, ids=lambda d: d.value)
@pytest.mark.parametrize("in_vectors", [True, False])
def test_every_cast(source: DType, in_vectors: bool) -> None:
    rng = np.random.default_rng(2)
    size = sk.IntVar("N")
    index: sk.Index = sk.Span("i") if in_vectors else sk.At(sk.IntVar("i"))
    tensors = [sk.TensorDecl("a", (size,), source, "in")]
    body: list[sk.Stmt] = [sk.Assign("t", sk.Load(sk.TensorRef("a", (index,))))]
    for d in DType:
        tensors.append(sk.TensorDecl(f"y_{d.value}", (size,), d, "out"))
        body.append(sk.Store(sk.Cast(sk.Name("t"), d), sk.TensorRef(f"y_{d.value}", (index,))))
    loop = sk.For("i", sk.IntConst(0), size, 128 if in_vectors else None, tuple(body))
    sketch = sk.Sketch(f"casts_{source.value}", ("N",), tuple(tensors), (), (loop,))
    a = values(source, rng, 333)
    if source.is_float:  # what fits in no integer is undefined there
        a = np.where(
            np.isfinite(a.astype(np.float64)) & (np.abs(a.astype(np.float64)) < 100), a, np.ones(1, a.dtype)
        ).astype(a.dtype)
    arrays: dict[str, Array] = {"a": a} | {f"y_{d.value}": np.zeros(333, numpy_dtype(d)) for d in DType}
    want = {n: t.copy() for n, t in arrays.items()}
    with np.errstate(all="ignore"):
        interpret(sketch, want, {"N": 333})
    execute(sketch, arrays, {"N": 333})
    for d in DType:
        if source.is_float and d is DType.U8:
            live = a.astype(np.float64) > -1
        else:
            live = np.ones(333, bool)
        g, w = arrays[f"y_{d.value}"][live], want[f"y_{d.value}"][live]
        wrong = np.flatnonzero((g != w) & ~(_is_nan(g) & _is_nan(w)))
        assert not wrong.size, (
            f"{source.value} to {d.value}: {a[live][wrong[:4]]} gives {g[wrong[:4]]}, not {w[wrong[:4]]}"
        )


def _is_nan(x: Array) -> Array:
    return np.isnan(x.astype(np.float64))
