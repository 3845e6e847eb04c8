"""Elementwise operations as Triton expressions.

How values are held: f16 and bf16 as they are in memory, or as f32 inside an expression (rounded after every operation);
i64 as i32 where the range is known to fit (indices); everything else in its own type. What tl lacks, or computes less
exactly than torch does, comes from libdevice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from akg_dynamo.agents.lowering.ir import Axis, union_axes
from akg_dynamo.agents.lowering.triton_ints import (
    ATOM,
    COMPARISON,
    LEVELS,
    OR,
    PRODUCT,
    SUM,
    UNARY,
    Int,
    combine,
    widened,
)
from akg_dynamo.agents.sketch.ast import DType
from akg_dynamo.core.errors import LoweringError

TYPES = {
    DType.F64: "tl.float64", DType.F32: "tl.float32", DType.F16: "tl.float16", DType.BF16: "tl.bfloat16",
    DType.I64: "tl.int64", DType.I32: "tl.int32", DType.I16: "tl.int16", DType.I8: "tl.int8", DType.U8: "tl.uint8",
    DType.BOOL: "tl.int1",
}  # fmt: skip
HALVES = (DType.F16, DType.BF16)
_LARGEST = (2 - 2.0**-23) * 2.0**127  # of an f32
_SMALLEST = 2.0**-126  # that has all its bits
_BITS = {DType.I64: 63, DType.I32: 31, DType.I16: 15, DType.I8: 7, DType.U8: 8}


@dataclass(frozen=True)
class Tile:
    """A value in Triton. axes: the dimensions it really has, outermost first (it may not vary over all of its axes).

    dtype: the language's. held: the type of the text, which for 16-bit floats may be F32 and for I64 may be I32.
    value: of a literal. low, high: the range of an I64 where it is known.
    """

    text: str
    level: int
    dtype: DType
    held: DType
    axes: tuple[Axis, ...] = ()
    value: float | int | bool | None = None
    low: int | None = None
    high: int | None = None

    def at(self, level: int) -> str:
        """The text as an operand of an operation of that level."""
        return self.text if self.level >= level else f"({self.text})"

    @property
    def literal(self) -> bool:
        """Whether it is a number that takes the type of what it meets."""
        return self.value is not None


@dataclass(frozen=True)
class Kind:
    """What an expression is, without its text."""

    dtype: DType
    held: DType
    axes: tuple[Axis, ...] = ()

    def tile(self, text: str, level: int = ATOM) -> Tile:
        """An expression of this kind."""
        return Tile(text, level, self.dtype, self.held, self.axes)


def literal(value: float | int | bool, dtype: DType) -> Tile:
    """A constant, as the dtype has it."""
    if dtype is DType.BOOL:
        return Tile("True" if value else "False", ATOM, dtype, dtype, value=bool(value))
    if not dtype.is_float:
        wrapped = _wrapped(int(value), dtype)
        held = DType.I32 if dtype is DType.I64 and -(2**31) <= wrapped < 2**31 else dtype
        return Tile(str(wrapped), ATOM if wrapped >= 0 else UNARY, dtype, held, (), wrapped, wrapped, wrapped)
    rounded = _rounded(float(value), dtype)
    held = DType.F32 if dtype in HALVES else dtype
    if not math.isfinite(rounded):
        text = f'float("{rounded}")'
    else:
        text = repr(rounded) if dtype is DType.F64 else str(np.float32(rounded))
        if held is DType.F32 and abs(float(text)) > _LARGEST:
            text = repr(rounded)  # the short form is above every f32, which Triton takes for an f64
    return Tile(text, UNARY if text.startswith("-") else ATOM, dtype, held, value=rounded)


def _wrapped(value: int, dtype: DType) -> int:
    bits = dtype.size_bytes * 8
    value &= (1 << bits) - 1
    return value - (1 << bits) if dtype is not DType.U8 and value >> (bits - 1) else value


def _rounded(value: float, dtype: DType) -> float:
    """To nearest in the dtype, overflow to infinity."""
    if dtype is DType.F64 or not math.isfinite(value):
        return value
    import torch

    single = torch.tensor(value, dtype=torch.float64).to(torch.float32)
    return float(single if dtype is DType.F32 else single.to(getattr(torch, dtype.torch_name)))


def typed(x: Tile) -> Tile:
    """With a type of its own, where nothing else would give a literal one."""
    if not x.literal:
        return x
    if x.held is DType.F32 and (
        x.value == 0 or not math.isfinite(float(x.value or 0)) or abs(float(x.value or 0)) >= 2.0**-126
    ):
        return x  # a Python float is f32 by itself, but a tiny one f64
    return replace(x, text=f"tl.full([], {x.text}, {TYPES[x.held]})", level=ATOM, value=None)


def native(x: Tile) -> Tile:
    """In the language's own type."""
    if x.held is x.dtype:
        return x
    if x.literal:
        return replace(x, text=f"tl.full([], {x.text}, {TYPES[x.dtype]})", level=ATOM, held=x.dtype, value=None)
    return replace(x, text=converted(x, x.dtype), level=ATOM, held=x.dtype)


def converted(x: Tile, to: DType) -> str:
    """The text in another type."""
    return f"{x.at(ATOM)}.to({TYPES[to]})"


def wide(x: Tile) -> Tile:
    """As arithmetic takes it: 16-bit floats in f32."""
    if x.held in HALVES:
        return replace(x, text=f"{x.at(ATOM)}.to(tl.float32)", level=ATOM, held=DType.F32)
    return x


def spread(x: Tile, axes: tuple[Axis, ...]) -> Tile:
    """With a dimension for each of `axes`, of size 1 where it lacks one. A scalar stays what it is."""
    if not x.axes or x.axes == axes:
        return x
    index = ", ".join(":" if a in x.axes else "None" for a in axes)
    return replace(x, text=f"{x.at(ATOM)}[{index}]", level=ATOM, axes=axes)


def aligned(tiles: list[Tile]) -> tuple[list[Tile], tuple[Axis, ...]]:
    """Tiles so that they combine, and the axes of the result."""
    axes = union_axes(*(t.axes for t in tiles))
    return [spread(t, axes) for t in tiles], axes


def infix(op: str, a: Tile, b: Tile, kind: Kind) -> Tile:
    """``a op b``."""
    level = LEVELS[op]
    left = level + 1 if level == COMPARISON else level
    right = level + (0 if op in "+*&|^" and b.level != level else 1)
    return kind.tile(f"{a.at(left)} {op} {b.at(right)}", level)


def call(function: str, args: list[Tile], kind: Kind, extra: str = "") -> Tile:
    """``function(args)``."""
    return kind.tile(f"{function}({', '.join(t.text for t in args)}{extra})")


_INFIX = {"add": "+", "sub": "-", "mul": "*"}
_COMPARE = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_LOGIC = {"and": "&", "or": "|", "xor": "^", "maximum": "|", "minimum": "&"}
_EXACT = frozenset(
    (
        "neg", "abs", "maximum", "minimum", "fmax", "fmin", "copysign", "sign", "floor", "ceil", "trunc", "round",
    )
)  # fmt: skip
"""Their result is a 16-bit float without rounding when the operands are."""
_LIBDEVICE = {
    "exp": "exp", "exp2": "exp2", "expm1": "expm1", "log": "log", "log2": "log2", "log10": "log10", "log1p": "log1p",
    "sin": "sin", "cos": "cos", "tan": "tan", "asin": "asin", "acos": "acos", "atan": "atan", "sinh": "sinh",
    "cosh": "cosh", "tanh": "tanh", "asinh": "asinh", "acosh": "acosh", "atanh": "atanh", "erf": "erf", "erfc": "erfc",
    "lgamma": "lgamma", "trunc": "trunc", "round": "rint", "pow": "pow", "fmod": "fmod", "atan2": "atan2",
    "hypot": "hypot", "copysign": "copysign", "nextafter": "nextafter",
}  # fmt: skip
_TL = {"floor": "tl.floor", "ceil": "tl.ceil", "abs": "tl.abs", "fma": "tl.fma"}
_ROUGH = {"exp": "tl.exp", "exp2": "tl.exp2", "sigmoid": "tl.sigmoid", "sqrt": "tl.sqrt", "rsqrt": "tl.rsqrt"}
_OWN = {"sigmoid": "sigmoid", "mod": "float_mod", "floordiv": "float_floor_div"}
_NAN = ", propagate_nan=tl.PropagateNan.ALL"
_EXTREMES = {
    "maximum": ("tl.maximum", _NAN), "minimum": ("tl.minimum", _NAN), "fmax": ("tl.maximum", ""),
    "fmin": ("tl.minimum", ""),
}  # fmt: skip


def operation(name: str, args: list[Tile], out: DType, *, rough: bool = False) -> Tile:
    """One elementwise operation. rough: in f32, the hardware's approximation of it will do."""
    if name == "where":
        return _select(args, out)
    dtype = args[0].dtype
    if dtype is DType.BOOL:
        return _bool(name, args)
    if dtype is DType.I64:
        known = _indices(name, args)
        if known is not None:
            return known
        args = [native(a) if not a.literal else a for a in args]
    elif dtype.is_float:
        args = [wide(a) for a in args]
    if all(a.literal for a in args):
        args = [native(typed(args[0])) if not dtype.is_float else typed_float(args[0]), *args[1:]]
    tiles, axes = aligned(args)
    if name in _COMPARE:
        return infix(_COMPARE[name], tiles[0], tiles[1], Kind(DType.BOOL, DType.BOOL, axes))
    if not dtype.is_float:
        return _integer(name, tiles, Kind(out, out, axes))
    return _float(name, tiles, out, axes, rough and tiles[0].held is DType.F32)


def typed_float(x: Tile) -> Tile:
    """A float literal as a tensor."""
    return replace(x, text=f"tl.full([], {x.text}, {TYPES[x.held]})", level=ATOM, value=None)


def rounded(x: Tile) -> Tile:
    """What an operation on 16-bit floats gives: its f32 result rounded."""
    if x.dtype not in HALVES:
        return x
    return replace(x, text=f"{x.at(ATOM)}.to({TYPES[x.dtype]})", level=ATOM, held=x.dtype)


def _float(name: str, t: list[Tile], out: DType, axes: tuple[Axis, ...], rough: bool) -> Tile:
    held = t[0].held
    if out is DType.BOOL:
        return _test(name, t[0], axes)
    if name == "nextafter" and out in HALVES:
        halves = [native(typed_float(x) if x.literal else x) for x in t]
        return call("next_half", halves, Kind(out, out, axes), f", {0x7C00 if out is DType.F16 else 0x7F80}")
    kind = Kind(out, held, axes)
    result = (_approximate(name, t, kind) if rough else None) or _wide_float(name, t, kind)
    return result if name in _EXACT else rounded(result)


def _wide_float(name: str, t: list[Tile], kind: Kind) -> Tile:
    if name in _INFIX:
        return infix(_INFIX[name], t[0], t[1], kind)
    if name == "neg":  # -x is 0 - x in Triton, which loses the sign of zero
        return infix("*", t[0], kind.tile("-1.0", UNARY), kind)
    if name in _EXTREMES:
        function, extra = _EXTREMES[name]
        return call(function, [typed(x) for x in t], kind, extra)
    if name == "sign":
        positive, negative = (f"({t[0].at(SUM)} {op} 0).to({TYPES[kind.held]})" for op in "><")
        return kind.tile(f"{positive} - {negative}", SUM)
    if name == "div":
        return _divide(t[0], t[1], kind)
    if name == "reciprocal":
        return _divide(literal(1.0, kind.dtype), t[0], kind)
    if name == "sqrt":
        return _sqrt(t[0], kind)
    if name == "rsqrt":
        root = wide(rounded(_sqrt(t[0], kind)))
        return _divide(literal(1.0, kind.dtype), root, kind)
    if name in _LIBDEVICE:
        return call(f"libdevice.{_LIBDEVICE[name]}", [typed(x) for x in t], kind)
    if name in _TL:
        return call(_TL[name], [typed(x) for x in t], kind)
    if name in _OWN:
        return call(_OWN[name], [typed_float(x) if x.literal else x for x in t], kind)
    raise LoweringError(f"no Triton for {name} of {kind.dtype.value}")


def _approximate(name: str, t: list[Tile], kind: Kind) -> Tile | None:
    """Of a few ulp, where the hardware has one."""
    if name in _ROUGH:
        return call(_ROUGH[name], [typed(x) for x in t], kind)
    if name in ("div", "reciprocal"):
        return infix("/", *((t[0], t[1]) if name == "div" else (literal(1.0, kind.dtype), t[0])), kind)
    return None


def _divide(a: Tile, b: Tile, kind: Kind) -> Tile:
    if kind.held is DType.F32:  # the / of f32 is an approximation
        return call("tl.div_rn", [typed(a), typed(b)], kind)
    return infix("/", a, b, kind)


def inverse(x: Tile, *, exact: bool) -> Tile | None:
    """What to multiply by instead of dividing by a constant, if there is such a number: a division takes a branch.

    exact: only where not one bit of any result changes. Otherwise the results are within 1.5 ulp.
    """
    if x.held is not DType.F32 or not isinstance(x.value, float) or not _SMALLEST <= abs(x.value) <= 1 / _SMALLEST:
        return None
    if exact and abs(math.frexp(x.value)[0]) != 0.5:
        return None
    return literal(1.0 / x.value, x.dtype if x.dtype not in HALVES else DType.F32)


def _sqrt(x: Tile, kind: Kind) -> Tile:
    return call("tl.sqrt_rn" if kind.held is DType.F32 else "tl.sqrt", [typed(x)], kind)


def _test(name: str, x: Tile, axes: tuple[Axis, ...]) -> Tile:
    if name == "isnan":
        text = f"{x.at(OR)} != {x.at(OR)}"
    elif name == "isinf":
        text = f'tl.abs({x.text}) == float("inf")'
    elif name == "signbit":
        text = f"{x.at(ATOM)}.to({'tl.int64' if x.held is DType.F64 else 'tl.int32'}, bitcast=True) < 0"
    else:
        raise LoweringError(f"no Triton for {name} to bool")
    return Kind(DType.BOOL, DType.BOOL, axes).tile(text, COMPARISON)


def _bool(name: str, args: list[Tile]) -> Tile:
    tiles, axes = aligned([typed(a) for a in args])
    if name == "not":
        return Kind(DType.BOOL, DType.BOOL, axes).tile(f"~{tiles[0].at(UNARY)}", UNARY)
    op = _LOGIC.get(name) or _COMPARE.get(name)
    if op is None:
        raise LoweringError(f"no Triton for {name} of bool")
    return infix(op, tiles[0], tiles[1], Kind(DType.BOOL, DType.BOOL, axes))


def _select(args: list[Tile], out: DType) -> Tile:
    condition, *choices = args
    condition = typed(condition)
    held = out
    if out in HALVES and any(c.held is DType.F32 and not c.literal for c in choices):
        choices, held = [wide(c) for c in choices], DType.F32
    if out is DType.I64:
        if all(c.held is DType.I32 for c in choices):
            held = DType.I32
        else:
            choices = [c if c.literal else native(c) for c in choices]
    if all(c.literal for c in choices):
        choices[0] = replace(choices[0], text=f"tl.full([], {choices[0].text}, {TYPES[held]})", level=ATOM)
    tiles, axes = aligned([condition, *choices])
    result = call("tl.where", tiles, Kind(out, held, axes))
    if held is DType.I32 and out is DType.I64:
        lows, highs = [c.low for c in choices], [c.high for c in choices]
        low = None if None in lows else min(x for x in lows if x is not None)
        high = None if None in highs else max(x for x in highs if x is not None)
        result = replace(result, low=low, high=high)
    return result


# --------------------------------------------------------------------------------------------------------------------
# Integers


_INDEX_OPS = {
    "add": "+", "sub": "-", "mul": "*", "floordiv": "//", "mod": "%", "maximum": "max", "minimum": "min",
}  # fmt: skip


def _indices(name: str, args: list[Tile]) -> Tile | None:
    """An operation on i64 whose operands and result are known to fit 32 bits; None if they are not."""
    if any(a.held is not DType.I32 or a.low is None or a.high is None for a in args):
        return None
    tiles, axes = aligned(args)
    if all(t.literal for t in tiles):
        tiles[0] = typed(tiles[0])
    if name in _COMPARE:
        return infix(_COMPARE[name], tiles[0], tiles[1], Kind(DType.BOOL, DType.BOOL, axes))
    if name not in _INDEX_OPS:
        return None
    a, b = (Int(t.text, t.level, t.low, t.high, wide=False, literal=t.literal) for t in tiles)
    result = combine(_INDEX_OPS[name], a, b)
    if not result.fits:
        return None
    return Tile(result.text, result.level, DType.I64, DType.I32, axes, None, result.low, result.high)


def _integer(name: str, t: list[Tile], kind: Kind) -> Tile:
    out = kind.dtype
    unsigned = out is DType.U8
    if name in _INFIX:
        return infix(_INFIX[name], t[0], t[1], kind)
    if name in ("and", "or", "xor"):
        return infix(_LOGIC[name], t[0], t[1], kind)
    if name == "not":
        return kind.tile(f"~{t[0].at(UNARY)}", UNARY)
    if name == "neg":
        return kind.tile(f"-{t[0].at(ATOM)}", UNARY)
    if name in ("maximum", "fmax", "minimum", "fmin"):
        return call("tl.maximum" if "max" in name else "tl.minimum", _typed_ints(t), kind)
    if name == "abs":
        return t[0] if unsigned else call("tl.abs", _typed_ints(t), kind)
    if name == "sign":
        if unsigned:
            return kind.tile(f"({t[0].at(SUM)} > 0).to(tl.uint8)", ATOM)
        positive, negative = (f"({t[0].at(SUM)} {op} 0).to({TYPES[out]})" for op in "><")
        return kind.tile(f"{positive} - {negative}", SUM)
    if name in ("truncdiv", "fmod") or (unsigned and name in ("floordiv", "mod")):
        return infix("//" if "div" in name else "%", t[0], t[1], kind)
    if name in ("floordiv", "mod"):
        return call("floor_div" if name == "floordiv" else "floor_mod", _typed_ints(t), kind)
    if name == "pow":
        return _power(t, kind)
    if name in ("shl", "shr"):
        return _shift(name, t, kind)
    raise LoweringError(f"no Triton for {name} of {out.value}")


def _typed_ints(t: list[Tile]) -> list[Tile]:
    return [native(typed(x)) for x in t]


def _power(t: list[Tile], kind: Kind) -> Tile:
    exponent = t[1].value
    if exponent is not None and 1 <= exponent <= 3:
        return kind.tile(" * ".join([t[0].at(PRODUCT + 1)] * int(exponent)), PRODUCT)
    function = "unsigned_pow" if kind.dtype is DType.U8 else "int_pow"
    return call(function, _typed_ints(t), kind, f", {_BITS[kind.dtype]}")


def _shift(name: str, t: list[Tile], kind: Kind) -> Tile:
    out = kind.dtype
    bits = 8 * out.size_bytes
    if t[1].value is not None and 0 <= t[1].value < bits:
        return infix("<<" if name == "shl" else ">>", t[0], t[1], kind)
    function = "shift_left" if name == "shl" else "unsigned_shift_right" if out is DType.U8 else "shift_right"
    return call(function, _typed_ints(t), kind, f", {bits}")


# --------------------------------------------------------------------------------------------------------------------
# Conversions


def cast(x: Tile, out: DType) -> Tile:
    """Conversion as torch's `.to(dtype)`."""
    if x.value is not None:
        folded = _folded(x.value, out)
        if folded is not None:
            return folded
        x = typed_float(x) if x.dtype.is_float else native(x)
    if out is DType.BOOL:
        return Tile(f"{wide(x).at(OR)} != 0", COMPARISON, out, out, x.axes)
    if x.dtype.is_float and out.is_int:
        return _float_to_int(wide(x), out)
    if x.held is out:
        return Tile(x.text, x.level, out, out, x.axes)
    if out in HALVES and x.held is not DType.F32:  # through f32, as torch does
        x = Tile(converted(x, DType.F32), ATOM, DType.F32, DType.F32, x.axes)
    return Tile(converted(x, out), ATOM, out, out, x.axes)


def _folded(value: float | int | bool, out: DType) -> Tile | None:
    """The cast of a literal, where it is plain."""
    if out is DType.BOOL:
        return literal(value != 0, out)
    if out.is_float:
        return literal(float(value), out) if abs(value) < 2**53 or isinstance(value, float) else None
    if isinstance(value, float) and not abs(value) < 2**31:
        return None
    return literal(int(value), out)


def _float_to_int(x: Tile, out: DType) -> Tile:
    if out is DType.I64:
        return Tile(f"to_int64({x.text})", ATOM, out, out, x.axes)
    text = f"to_int32({x.text})"
    return Tile(text if out is DType.I32 else f"{text}.to({TYPES[out]})", ATOM, out, out, x.axes)


def of_int(x: Int, axes: tuple[Axis, ...] = ()) -> Tile:
    """An integer of the sketch as an i64 tile, in 32 bits where it fits."""
    if x.literal:
        return literal(int(x.text), DType.I64)
    if x.fits and not x.wide:
        return Tile(x.text, x.level, DType.I64, DType.I32, axes, None, x.low, x.high)
    x = widened(x)
    return Tile(x.text, x.level, DType.I64, DType.I64, axes, None, x.low, x.high)
