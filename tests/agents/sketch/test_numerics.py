"""The interpreter's arithmetic against torch: every operation, cast, reduction and scan, with odd values."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from akg_dynamo.agents.sketch import interpret, parse
from akg_dynamo.agents.sketch.ast import DType
from akg_dynamo.agents.sketch.numerics import numpy_dtype
from akg_dynamo.agents.sketch.ops import OPS, REDUCTIONS, SCANS, Rule

FLOATS = [d for d in DType if d.is_float]
ODD = [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, -2.5, 3.0, -7.25, 1e-3, 40.0, -40.0, math.inf, -math.inf, math.nan]

# Units in the last place between two right answers: torch's own transcendental functions are not correctly rounded.
ULPS = {"pow": 4, "rsqrt": 4, "tan": 4}

# torch's names where they differ from the language's.
TORCH: dict[str, Callable[..., torch.Tensor]] = {
    "floordiv": torch.floor_divide, "mod": torch.remainder,
    "truncdiv": lambda a, b: torch.div(a, b, rounding_mode="trunc"),
    "and": torch.bitwise_and, "or": torch.bitwise_or, "xor": torch.bitwise_xor, "not": torch.bitwise_not,
    "shl": torch.bitwise_left_shift, "shr": torch.bitwise_right_shift, "fma": lambda a, b, c: a * b + c,
}  # fmt: skip


def to_torch(a: np.ndarray[Any, Any], dtype: DType) -> torch.Tensor:
    if dtype is DType.BF16:
        return torch.from_numpy(np.ascontiguousarray(a).view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(np.ascontiguousarray(a))


def from_torch(t: torch.Tensor) -> np.ndarray[Any, Any]:
    if t.dtype is torch.bfloat16:
        return t.contiguous().view(torch.int16).numpy().view(numpy_dtype(DType.BF16))
    return t.contiguous().numpy()


def values(dtype: DType, seed: int, count: int = 289) -> np.ndarray[Any, Any]:
    """Pairs of odd values first (each against each, over two calls), then random ones."""
    rng = np.random.default_rng(seed)
    if dtype is DType.BOOL:
        return np.asarray(rng.random(count) < 0.5)
    if dtype.is_int:
        info = np.iinfo(numpy_dtype(dtype))
        a = rng.integers(max(info.min, -12), 13, count)
        a[::17] = info.max
        a[1::17] = info.min
        return a.astype(numpy_dtype(dtype))
    odd = np.repeat(ODD, len(ODD)) if seed % 2 else np.tile(ODD, len(ODD))
    a = np.where(rng.random(count) < 0.5, odd, rng.normal(size=count) * 3) if seed > 1 else odd
    return a.astype(np.float32).astype(numpy_dtype(dtype))


def run(expression: str, args: list[np.ndarray[Any, Any]], dtypes: list[DType], out: DType) -> np.ndarray[Any, Any]:
    names = [f"x{n}" for n in range(len(args))]
    decls = ", ".join(f"{n}[N]: {d.value} in" for n, d in zip(names, dtypes, strict=True))
    lines = [f"    {n}_ = load({n}[i:i+BN])" for n in names]
    text = "\n".join(
        [
            "sketch one {",
            "  symbols: N",
            f"  tensors: {decls}, y[N]: {out.value} out",
            "  constexpr: BN = 64",
            "  for i in range(0, N, BN):",
            *lines,
            f"    store({expression} -> y[i:i+BN])",
            "}",
        ]
    )
    y = np.zeros(args[0].size, numpy_dtype(out))
    interpret(parse(text), dict(zip(names, args, strict=True)) | {"y": y}, {"N": args[0].size})
    return y


def assert_near(
    got: np.ndarray[Any, Any], want: np.ndarray[Any, Any], dtype: DType, ulps: int, scale: float = 0.0
) -> None:
    """NaN and Inf and exact zeros' places equal; the rest within `ulps` (of `scale`, if larger)."""
    if not dtype.is_float:
        np.testing.assert_array_equal(got, want)
        return
    eps = {DType.F64: 2.0**-52, DType.F32: 2.0**-23, DType.F16: 2.0**-10, DType.BF16: 2.0**-7}[dtype]
    tiny = {DType.F64: 1e-300, DType.F32: 1e-37, DType.F16: 6e-8, DType.BF16: 1e-37}[dtype]
    np.testing.assert_allclose(
        got.astype(np.float64), want.astype(np.float64), rtol=ulps * eps, atol=ulps * max(tiny, eps * scale)
    )


def operands(name: str, dtype: DType) -> list[np.ndarray[Any, Any]]:
    info = OPS[name]
    args = [values(dtype, seed) for seed in range(info.arity)]
    if dtype.is_int and name in ("floordiv", "mod", "fmod", "truncdiv"):
        args[1] = np.where(args[1] == 0, 5, args[1]).astype(args[1].dtype)
        if dtype is not DType.U8:  # torch's own answer for the least integer by -1 is whatever the machine does
            args[1] = np.where(args[1] == -1, 7, args[1]).astype(args[1].dtype)
    if name == "where":
        args[0] = values(DType.BOOL, 3)
    if name in ("shl", "shr"):
        args[1] = np.resize(np.arange(12), args[1].size).astype(args[1].dtype)
    return args


def takes(rule: Rule, dtype: DType) -> bool:
    if rule is Rule.ARITH:
        return dtype is not DType.BOOL
    if rule in (Rule.FLOAT, Rule.TEST):
        return dtype.is_float
    if rule is Rule.INT:
        return dtype.is_int
    if rule is Rule.INDEX:  # in test_interpret and test_checked
        return False
    return not dtype.is_float if rule is Rule.BITS else True


CASES = [(name, dtype) for name, info in OPS.items() for dtype in DType if takes(info.rule, dtype)]


@pytest.mark.parametrize(("name", "dtype"), CASES, ids=lambda x: x.value if isinstance(x, DType) else x)
def test_operation_is_torch_s(name: str, dtype: DType) -> None:
    args = operands(name, dtype)
    dtypes = [DType.BOOL if name == "where" and n == 0 else dtype for n in range(len(args))]
    out = DType.BOOL if OPS[name].rule in (Rule.COMPARE, Rule.TEST) else dtype
    got = run(f"{name}({', '.join(f'x{n}_' for n in range(len(args)))})", args, dtypes, out)
    tensors = [to_torch(a, d) for a, d in zip(args, dtypes, strict=True)]
    if name == "fma" and dtype is not DType.F64:
        tensors = [t.double() for t in tensors]
    if name == "nextafter" and dtype is DType.F16:
        want = np.nextafter(args[0], args[1])
    else:
        function = TORCH.get(name) or getattr(torch, name)
        want = from_torch(function(*tensors).to(getattr(torch, out.torch_name)))
    exact = name in (
        "add",
        "sub",
        "mul",
        "div",
        "sqrt",
        "floor",
        "ceil",
        "trunc",
        "round",
        "neg",
        "abs",
        "sign",
        "fmod",
    )
    ulps = 0 if exact and dtype is not DType.F16 else ULPS.get(name, 3)
    assert_near(got, want, out, ulps, scale=8.0 if name == "lgamma" else 0.0)  # which has zeros at 1 and 2


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: d.value)
def test_signs_of_zero(dtype: DType) -> None:
    x = np.array([0.0, -0.0]).astype(numpy_dtype(dtype))
    for name in ("neg", "sqrt", "floor", "round", "tanh", "sin"):
        want = from_torch(getattr(torch, name)(to_torch(x, dtype)))
        np.testing.assert_array_equal(np.signbit(run(f"{name}(x0_)", [x], [dtype], dtype)), np.signbit(want), name)


@pytest.mark.parametrize("source", list(DType), ids=lambda d: d.value)
@pytest.mark.parametrize("target", list(DType), ids=lambda d: d.value)
def test_cast_is_torch_s(source: DType, target: DType) -> None:
    x = values(source, 2)
    if source.is_float and target.is_int:  # torch leaves out-of-range values to the machine
        wide = x.astype(np.float64)
        low = 0 if target is DType.U8 else -41
        x = np.where(np.isfinite(wide) & (wide >= low), wide, 3.75).astype(numpy_dtype(source))
    want = from_torch(to_torch(x, source).to(getattr(torch, target.torch_name)))
    got = run(f"cast(x0_, {target.value})", [x], [source], target)
    assert_near(got, want, target, 0)


def test_cast_of_what_no_integer_holds_is_defined() -> None:
    x = np.array([math.nan, math.inf, 1e30, -1e30], np.float32)
    assert run("cast(x0_, i64)", [x], [DType.F32], DType.I64).tolist() == [-(2**63)] * 4
    assert run("cast(x0_, i32)", [x], [DType.F32], DType.I32).tolist() == [-(2**31)] * 4
    assert run("cast(x0_, u8)", [x], [DType.F32], DType.U8).tolist() == [0] * 4


def test_fma_rounds_once() -> None:
    for dtype, tiny in ((DType.F64, 2.0**-53), (DType.F32, 2.0**-24)):
        a = np.array([1 + 2 * tiny], numpy_dtype(dtype))
        c = np.array([-(1 + 4 * tiny)], numpy_dtype(dtype))
        # (1 + 2e)² = 1 + 4e + 4e²: the last term is lost when the product is rounded on its own.
        assert run("fma(x0_, x0_, x1_)", [a, c], [dtype, dtype], dtype)[0] == 4 * tiny * tiny
        assert run("x0_ * x0_ + x1_", [a, c], [dtype, dtype], dtype)[0] == 0


@pytest.mark.parametrize("dtype", [DType.F16, DType.BF16], ids=lambda d: d.value)
def test_sixteen_bits_round_after_every_operation(dtype: DType) -> None:
    big = {DType.F16: 2048.0, DType.BF16: 256.0}[dtype]
    x = np.array([big], dtype=np.float32).astype(numpy_dtype(dtype))
    assert float(run("(x0_ + 1.0) - x0_", [x], [dtype], dtype)[0]) == 0.0


def test_integer_division_by_zero_names_the_line() -> None:
    from akg_dynamo.core.errors import SketchError

    with pytest.raises(SketchError, match="line 7: integer division by zero"):
        run("x0_ // x0_", [np.zeros(3, np.int32)], [DType.I32], DType.I32)


# --------------------------------------------------------------------------------------------------------------------


def over_rows(
    expression: str, x: np.ndarray[Any, Any], dtype: DType, out: DType, *, keep: bool
) -> np.ndarray[Any, Any]:
    target = "y[i, j:j+64]" if keep else "y[i]"
    text = f"""sketch rows {{
      symbols: M, N
      tensors: x[M, N]: {dtype.value} in, y[M{", N" if keep else ""}]: {out.value} out
      for i in range(0, M):
        axis j = range(0, N, 64)
        t = load(x[i, j:j+64])
        store({expression} -> {target})
    }}"""
    y = np.zeros(x.shape if keep else x.shape[:1], numpy_dtype(out))
    interpret(parse(text), {"x": x, "y": y}, {"M": x.shape[0], "N": x.shape[1]})
    return y


REDUCTION_CASES = [
    (op, d)
    for op in REDUCTIONS
    for d in DType
    if (d is DType.BOOL) == (op in ("any", "all")) or (op in ("max", "min") and d is DType.BOOL)
]


@pytest.mark.parametrize(("op", "dtype"), REDUCTION_CASES, ids=lambda x: x.value if isinstance(x, DType) else x)
def test_reduction_is_torch_s(op: str, dtype: DType) -> None:
    x = values(dtype, 2).reshape(17, 17)
    if op in ("prod", "sum") and dtype.is_float:
        x[3:] = np.where(np.isfinite(x[3:].astype(np.float64)), x[3:], x[:1, :1] + x[1:2, 1:2] * 0)
    t = to_torch(x, dtype)
    torch_dtype = getattr(torch, dtype.torch_name)
    if op in ("sum", "prod"):
        wide = t.double() if dtype.is_float else t
        want = getattr(torch, op)(wide, 1).to(torch_dtype)
    else:
        want = getattr(torch, {"max": "amax", "min": "amin"}.get(op, op))(t, 1)
    out = DType.I64 if op.startswith("arg") else dtype
    assert_near(over_rows(f"reduce_{op}(t, j)", x, dtype, out, keep=False), from_torch(want), out, 2)


@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16, DType.I32, DType.U8], ids=lambda d: d.value)
def test_reductions_of_nothing(dtype: DType) -> None:
    x = np.zeros((2, 0), numpy_dtype(dtype))
    low, high = (-math.inf, math.inf) if dtype.is_float else (np.iinfo(numpy_dtype(dtype)).min, np.iinfo(x.dtype).max)
    for op, want in {"sum": 0, "prod": 1, "max": low, "min": high}.items():
        assert over_rows(f"reduce_{op}(t, j)", x, dtype, dtype, keep=False).astype(np.float64).tolist() == [want] * 2
    assert over_rows("reduce_any(t > 0, j)", x, dtype, DType.BOOL, keep=False).tolist() == [False] * 2
    assert over_rows("reduce_all(t > 0, j)", x, dtype, DType.BOOL, keep=False).tolist() == [True] * 2


def test_first_of_equal_extremes_and_nan_first_of_all() -> None:
    x = np.array([[1, 3, 3, 0], [1, math.nan, 9, math.nan], [-math.inf] * 4], np.float32)
    assert over_rows("reduce_argmax(t, j)", x, DType.F32, DType.I64, keep=False).tolist() == [1, 1, 0]
    assert over_rows("reduce_argmin(t, j)", x, DType.F32, DType.I64, keep=False).tolist() == [3, 1, 0]


@pytest.mark.parametrize("op", SCANS)
@pytest.mark.parametrize("dtype", [d for d in DType if d is not DType.BOOL], ids=lambda d: d.value)
def test_scan_is_torch_s(op: str, dtype: DType) -> None:
    x = values(dtype, 2).reshape(17, 17)
    t = to_torch(x, dtype)
    wide = t.double() if dtype.is_float else t
    if op in ("max", "min"):
        want = getattr(torch, f"cum{op}")(wide, 1).values
    else:
        want = getattr(torch, f"cum{op}")(wide, 1, dtype=wide.dtype)
    got = over_rows(f"scan_{op}(t, j)", x, dtype, dtype, keep=True)
    assert_near(got, from_torch(want.to(getattr(torch, dtype.torch_name))), dtype, 2)
