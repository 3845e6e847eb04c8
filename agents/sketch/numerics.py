"""What the language's operations compute, on NumPy arrays: the interpreter's arithmetic, a function per kind.

f32, f16 and bf16 are computed in f64 and rounded once: for + - * / and sqrt that is correct rounding (f64 has more than
twice their digits), for the transcendental functions within an ulp of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np

from akg_dynamo.agents.sketch.ast import DType

Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"


def numpy_dtype(dtype: DType) -> np.dtype[Any]:
    """NumPy's dtype for it. bf16 is that of ml_dtypes, which is imported only when it is asked for."""
    if dtype is DType.BF16:
        import ml_dtypes

        narrow: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return narrow
    return np.dtype(dtype.torch_name)


def literal(value: float | int | bool, dtype: DType) -> Array:
    """A 0-d array."""
    if dtype.is_float:
        return rounded(np.asarray(float(value), dtype=np.float64), dtype)
    return np.asarray(int(value), dtype=numpy_dtype(dtype))


def rounded(x: Array, dtype: DType) -> Array:
    """f64 values to a float dtype, to nearest even. To 16 bits by way of f32, as torch and C do."""
    if dtype is DType.F64:
        return x.astype(np.float64, copy=False)
    single = x.astype(np.float32)
    return single if dtype is DType.F32 else single.astype(numpy_dtype(dtype))


def cast(x: Array, source: DType, dtype: DType) -> Array:
    """As torch's `.to`. A float that does not fit becomes the least integer; narrow integers go by way of i32 and wrap.

    (torch leaves that to the machine; this is what x86 does.)
    """
    if source is dtype:
        return x
    if dtype is DType.BOOL:
        return np.asarray(x != 0)
    if dtype.is_float:
        return (
            rounded(x.astype(np.float64), dtype) if source.is_float or dtype is DType.F64 else _int_to_float(x, dtype)
        )
    if source.is_float:
        wide = np.trunc(x.astype(np.float64))
        bits = 63 if dtype is DType.I64 else 31
        inside = (wide >= -(2.0**bits)) & (wide < 2.0**bits)
        x = np.where(inside, np.where(inside, wide, 0.0).astype(np.int64), -(2**bits))
    return x.astype(numpy_dtype(dtype))


def _int_to_float(x: Array, dtype: DType) -> Array:
    single = x.astype(np.float32)  # not by way of f64, which would round an i64 twice
    return single if dtype is DType.F32 else single.astype(numpy_dtype(dtype))


def elementwise(op: str, dtype: DType, args: list[Array]) -> Array:
    """`op` of `ops.OPS` on operands of one dtype (for "where": the condition, then two of `dtype`); they broadcast."""
    if op == "where":
        return np.where(args[0], args[1], args[2])
    if op in _COMPARE:
        return np.asarray(_COMPARE[op](*args))
    if dtype.is_float:
        wide = [a.astype(np.float64) for a in args]
        if op in _TEST:
            return np.asarray(_TEST[op](*wide))
        if op == "nextafter":
            return np.asarray(np.nextafter(*args))
        if op == "fma":
            return rounded(_fma(*wide, exact=dtype is DType.F64), dtype)
        if op == "floordiv":
            return _floor_divide(args, dtype)
        return rounded(np.asarray(_FLOAT[op](*wide)), dtype)
    if dtype is DType.BOOL:
        return np.asarray(_BOOL[op](*args))
    return np.asarray(_INT[op](*args)).astype(numpy_dtype(dtype), copy=False)


# --------------------------------------------------------------------------------------------------------------------
# Floats. Operands are f64.


def _fmod_to_floor(a: Array, b: Array) -> Array:
    """torch.remainder."""
    mod = np.fmod(a, b)
    return np.where((mod != 0) & ((b < 0) != (mod < 0)), mod + b, mod)


def _floor_divide(args: list[Array], dtype: DType) -> Array:
    """torch.floor_divide: its intermediate roundings show, so it is computed in the precision torch computes it in."""
    work: Any = np.float64 if dtype is DType.F64 else np.float32
    a: Any
    b: Any
    a, b = (x.astype(work) for x in args)
    mod = np.fmod(a, b)
    div = (a - mod) / b
    div = np.where((mod != 0) & ((b < 0) != (mod < 0)), div - work(1), div)
    floor = np.floor(div)
    floor = np.where(div - floor > 0.5, floor + work(1), floor)
    zero = np.copysign(work(0), a / b)
    result = np.where(b == 0, a / b, np.where(div != 0, floor, zero))
    return rounded(result.astype(np.float64), dtype)


def _fma(a: Array, b: Array, c: Array, *, exact: bool) -> Array:
    """a*b + c, ready to be rounded once: to odd, so that a second rounding (to at most half the digits) is right."""
    if exact:
        return np.asarray(_fma_f64(a, b, c), dtype=np.float64)
    product = a * b
    total = product + c
    part = total - product
    error = (product - (total - part)) + (c - part)  # Knuth's two-sum
    even = (total.view(np.int64) & 1) == 0
    towards = np.where(error > 0, np.inf, -np.inf)
    inexact = np.isfinite(total) & (error != 0) & even
    return np.where(inexact, np.nextafter(total, towards), total)


def _fma_one(a: float, b: float, c: float) -> float:
    if not (math.isfinite(a) and math.isfinite(b) and math.isfinite(c)):
        return float(np.float64(a) * np.float64(b) + np.float64(c))
    total = Fraction(a) * Fraction(b) + Fraction(c)
    if total == 0:
        return float(np.float64(a) * np.float64(b) + np.float64(c))
    try:
        return float(total)
    except OverflowError:
        return math.copysign(math.inf, total)


def _sigmoid(x: Array) -> Array:
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0 / (1.0 + small), np.where(np.isnan(x), x, small / (1.0 + small)))


def _lgamma_one(x: float) -> float:
    if x <= 0 and (math.isinf(x) or x.is_integer()):
        return math.inf
    try:
        return math.lgamma(x)
    except OverflowError:
        return math.inf


def _by_element(f: Callable[..., float], arity: int = 1) -> Callable[..., Array]:
    ufunc = np.frompyfunc(f, arity, 1)

    def apply(*xs: Array) -> Array:
        return np.asarray(ufunc(*xs), dtype=np.float64)

    return apply


_fma_f64 = _by_element(_fma_one, 3)

_FLOAT: dict[str, Callable[..., Any]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "mod": _fmod_to_floor, "fmod": np.fmod,
    "pow": np.power, "maximum": np.maximum, "minimum": np.minimum, "fmax": np.fmax, "fmin": np.fmin,
    "atan2": np.arctan2, "hypot": np.hypot, "copysign": np.copysign, "neg": np.negative, "abs": np.abs,
    "sign": lambda x: np.where(np.isnan(x), 0.0, np.sign(x)), "sqrt": np.sqrt, "rsqrt": lambda x: 1.0 / np.sqrt(x),
    "reciprocal": lambda x: 1.0 / x, "exp": np.exp, "exp2": np.exp2, "expm1": np.expm1, "log": np.log, "log2": np.log2,
    "log10": np.log10, "log1p": np.log1p, "sin": np.sin, "cos": np.cos, "tan": np.tan, "asin": np.arcsin,
    "acos": np.arccos, "atan": np.arctan, "sinh": np.sinh, "cosh": np.cosh, "tanh": np.tanh, "asinh": np.arcsinh,
    "acosh": np.arccosh, "atanh": np.arctanh, "sigmoid": _sigmoid, "erf": _by_element(math.erf),
    "erfc": _by_element(math.erfc), "lgamma": _by_element(_lgamma_one), "floor": np.floor, "ceil": np.ceil,
    "trunc": np.trunc, "round": np.rint,
}  # fmt: skip

_TEST: dict[str, Callable[..., Any]] = {"isnan": np.isnan, "isinf": np.isinf, "signbit": np.signbit}

_COMPARE: dict[str, Callable[..., Any]] = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
}  # fmt: skip

_BOOL: dict[str, Callable[..., Any]] = {
    "and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor, "not": np.logical_not,
    "maximum": np.logical_or, "minimum": np.logical_and,
}  # fmt: skip


# --------------------------------------------------------------------------------------------------------------------
# Integers. NumPy wraps; dividing by zero raises here, as torch does, and so does a checked index that is out of range.


def _divisor(b: Array) -> Array:
    if np.any(b == 0):
        raise ZeroDivisionError("integer division by zero")
    return b


def _checked(index: Array, size: Array) -> Array:
    wrong = (index < 0) | (index >= size)
    if np.any(wrong):
        first = np.broadcast_to(index, wrong.shape)[wrong].reshape(-1)[0]
        raise IndexError(f"the index {first} is out of range")
    return index + np.zeros_like(size)


def _trunc_divide(a: Array, b: Array) -> Array:
    floor = a // _divisor(b)
    return np.where((a - floor * b != 0) & ((a < 0) != (b < 0)), floor + 1, floor)


def _int_pow(a: Array, b: Array) -> Array:
    """Repeated multiplication; a negative exponent gives 0, but ±1 for a base of ±1."""
    a, b = np.broadcast_arrays(a, b)
    odd = (b & 1) != 0
    of_negative = np.where(a == 1, 1, np.where(a == -1, np.where(odd, -1, 1), 0))
    return np.asarray(np.where(b < 0, of_negative.astype(a.dtype), np.power(a, np.where(b < 0, 0, b))))


def _shift_left(a: Array, b: Array) -> Array:
    bits = a.dtype.itemsize * 8
    inside = (b >= 0) & (b < bits)
    return np.where(inside, np.left_shift(a, np.where(inside, b, 0)), np.zeros_like(a))


def _shift_right(a: Array, b: Array) -> Array:
    bits = a.dtype.itemsize * 8
    inside = (b >= 0) & (b < bits)
    emptied = np.zeros_like(a) if a.dtype.kind == "u" else np.right_shift(a, bits - 1)
    return np.where(inside, np.right_shift(a, np.where(inside, b, 0)), emptied)


_INT: dict[str, Callable[..., Any]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "floordiv": lambda a, b: a // _divisor(b),
    "mod": lambda a, b: a % _divisor(b), "fmod": lambda a, b: np.fmod(a, _divisor(b)), "truncdiv": _trunc_divide,
    "pow": _int_pow, "maximum": np.maximum, "minimum": np.minimum, "fmax": np.maximum, "fmin": np.minimum,
    "neg": np.negative, "abs": np.abs, "sign": np.sign, "and": np.bitwise_and, "or": np.bitwise_or,
    "xor": np.bitwise_xor, "checked": _checked, "not": np.invert, "shl": _shift_left, "shr": _shift_right,
}  # fmt: skip


# --------------------------------------------------------------------------------------------------------------------
# Reductions, scans, dot


def _extreme(op: str, dtype: DType) -> Array:
    """What max or min of nothing is."""
    if dtype is DType.BOOL:
        return np.asarray(op == "min")
    if dtype.is_float:
        return literal(-math.inf if op == "max" else math.inf, dtype)
    info = np.iinfo(numpy_dtype(dtype))
    return literal(int(info.min if op == "max" else info.max), dtype)


def reduce(op: str, x: Array, dtype: DType, axis: int) -> Array:
    """A reduction over one dimension; arg* give positions in it (ValueError when there are none).

    Floats are summed in f64 and rounded once, so the result does not depend on an order that the language leaves open.
    """
    if op in ("any", "all"):
        return np.asarray(np.any(x, axis=axis) if op == "any" else np.all(x, axis=axis))
    if op in ("max", "min"):
        wide = x.astype(np.float64) if dtype.is_float else x
        extreme: Callable[..., Any] = np.max if op == "max" else np.min
        found = extreme(wide, axis=axis, initial=_extreme(op, dtype).astype(wide.dtype)[()])
        return rounded(np.asarray(found), dtype) if dtype.is_float else np.asarray(found)
    if op in ("argmax", "argmin"):
        wide = x.astype(np.float64) if dtype.is_float else x
        return np.asarray((np.argmax if op == "argmax" else np.argmin)(wide, axis=axis), dtype=np.int64)
    total: Callable[..., Any] = np.sum if op == "sum" else np.prod
    if dtype.is_float:
        return rounded(np.asarray(total(x.astype(np.float64), axis=axis)), dtype)
    return np.asarray(total(x, axis=axis, dtype=numpy_dtype(dtype)))


def scan(op: str, x: Array, dtype: DType, axis: int) -> Array:
    """An inclusive scan along one dimension; floats in f64, rounded once per element."""
    ufunc = {"sum": np.add, "prod": np.multiply, "max": np.maximum, "min": np.minimum}[op]
    if dtype.is_float:
        return rounded(ufunc.accumulate(x.astype(np.float64), axis=axis), dtype)
    return np.asarray(ufunc.accumulate(x, axis=axis), dtype=numpy_dtype(dtype))


def dot(a: Array, b: Array, axis: int, precision: str, dtype: DType) -> Array:
    """The sum of a*b over one dimension, both already aligned to the same dimensions."""
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    if precision == "tf32" and dtype is DType.F32:
        wide_a, wide_b = _tf32(a), _tf32(b)
    total = np.sum(wide_a * wide_b, axis=axis)
    return rounded(np.asarray(total), DType.F64 if dtype is DType.F64 else DType.F32)


def _tf32(x: Array) -> Array:
    """f32 rounded to TF32's 10 bits of fraction, ties away from zero, as the matrix units do."""
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    kept = ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)
    return np.where(np.isfinite(x), kept, x).astype(np.float64)
