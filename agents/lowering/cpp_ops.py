"""Elementwise operations as C++ expressions, over scalars or over vectors of W lanes.

How values are held: f16 and bf16 as float that is rounded after every operation; integers in their own width; bool as
`bool`, or as a vector mask (0 or -1) whose lanes are as wide as those of what was compared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from akg_dynamo.agents.sketch.ast import DType
from akg_dynamo.core.errors import LoweringError

_HALVES = (DType.F16, DType.BF16)
HELD = {
    DType.F64: "double", DType.F32: "float", DType.F16: "float", DType.BF16: "float", DType.I64: "int64_t",
    DType.I32: "int32_t", DType.I16: "int16_t", DType.I8: "int8_t", DType.U8: "uint8_t", DType.BOOL: "bool",
}  # fmt: skip
STORED = {**HELD, DType.F16: "uint16_t", DType.BF16: "uint16_t", DType.BOOL: "uint8_t"}
_VECTOR = {
    "double": "f64v", "float": "f32v", "int64_t": "i64v", "int32_t": "i32v", "int16_t": "i16v", "int8_t": "i8v",
    "uint8_t": "u8v", "uint16_t": "u16v",
}  # fmt: skip
REPORT = "out_of_range"
"""The local that `checked` sets."""
_MASKS = {1: "i8v", 2: "i16v", 4: "i32v", 8: "i64v"}


def held_bytes(dtype: DType) -> int:
    """Bytes of a lane in a register."""
    return 4 if dtype in _HALVES else dtype.size_bytes


@dataclass(frozen=True)
class Reg:
    """A value in C++: an expression or a name. `mask_bytes` is the lane width of a vector bool."""

    text: str
    dtype: DType
    vector: bool
    mask_bytes: int = 0
    exact: bool = True  # False: f16 or bf16 that is yet to be rounded, by the store that is its only use
    constant: int | None = None  # of an integer that is known
    first: str = ""  # of consecutive numbers in the lanes: the first

    @property
    def c_type(self) -> str:
        """Its C++ type."""
        if not self.vector:
            return HELD[self.dtype]
        return _MASKS[self.mask_bytes] if self.dtype is DType.BOOL else _VECTOR[HELD[self.dtype]]


def vector_type(dtype: DType) -> str:
    """The vector type that holds `dtype` (not bool)."""
    return _VECTOR[HELD[dtype]]


def literal(value: float | int | bool, dtype: DType) -> Reg:
    """A constant, as the dtype has it."""
    if dtype is DType.BOOL:
        return Reg("true" if value else "false", dtype, False)
    if not dtype.is_float:
        known = _wrapped(int(value), dtype)
        return Reg(_int_text(known, dtype), dtype, False, constant=known)
    value = float(value)
    if dtype is not DType.F64 and math.isfinite(value):
        value = _rounded(value, dtype)
    suffix = "" if dtype is DType.F64 else "f"
    if math.isnan(value):
        text = f'__builtin_nan{suffix}("")'
    elif math.isinf(value):
        text = f"{'-' if value < 0 else ''}__builtin_inf{suffix}()"
    else:
        text = _float_text(value, suffix)
    return Reg(f"({text})" if text.startswith("-") else text, dtype, False)


def _rounded(value: float, dtype: DType) -> float:
    """To nearest in the dtype, overflow to infinity, as a cast in C has it."""
    import ctypes

    single = ctypes.c_float(value).value
    if dtype is DType.F32 or not math.isfinite(single):
        return single
    import torch

    return float(torch.tensor(value, dtype=torch.float64).to(torch.float16 if dtype is DType.F16 else torch.bfloat16))


def _float_text(value: float, suffix: str) -> str:
    if value == int(value) and abs(value) < 1e7:
        return f"{'-' if math.copysign(1, value) < 0 else ''}{abs(int(value))}.0{suffix}"
    return f"{value!r}{suffix}"


def _wrapped(value: int, dtype: DType) -> int:
    """What is left of it in the dtype's bits."""
    bits = 8 * dtype.size_bytes
    value &= (1 << bits) - 1
    return value - (1 << bits) if dtype is not DType.U8 and value >> (bits - 1) else value


def _int_text(value: int, dtype: DType) -> str:
    if dtype is DType.I64:
        text = "(-9223372036854775807LL - 1)" if value == -(1 << 63) else f"{value}LL"
    else:
        text = f"{HELD[dtype]}({value})"
    return f"({text})" if text.startswith("-") else text


def spread(reg: Reg, mask_bytes: int = 1) -> Reg:
    """A scalar in every lane; a vector as it is."""
    if reg.vector:
        return reg
    if reg.dtype is DType.BOOL:
        mask = _MASKS[mask_bytes]
        lane = mask[:-1].replace("i", "int") + "_t"
        return Reg(f"splat<{lane}>(-({lane}){reg.text})", reg.dtype, True, mask_bytes)
    return Reg(f"splat<{HELD[reg.dtype]}>({reg.text})", reg.dtype, True, exact=reg.exact)


def as_mask(reg: Reg, width: int) -> Reg:
    """A bool value as a vector mask of that lane width."""
    if not reg.vector:
        return spread(reg, width)
    if reg.mask_bytes == width:
        return reg
    return Reg(f"cvt<{_MASKS[width]}>({reg.text})", DType.BOOL, True, width)


def rounded(text: str, dtype: DType) -> str:
    """What an operation in f16 or bf16 gives."""
    return f"round_{dtype.value}({text})" if dtype in _HALVES else text


_EXACT = frozenset(
    (
        "neg",
        "abs",
        "maximum",
        "minimum",
        "fmax",
        "fmin",
        "copysign",
        "sign",
        "floor",
        "ceil",
        "trunc",
        "round",
        "where",
        "spread",
    )
)
_INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
COMPARISONS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_BITS = {"and": "&", "or": "|", "xor": "^"}
_FUNCTIONS = {
    "exp": "exp_", "expm1": "expm1_", "exp2": "exp2_", "log": "log_", "log2": "log2_", "log10": "log10_",
    "log1p": "log1p_", "sin": "sin_", "cos": "cos_", "tanh": "tanh_", "erf": "erf_", "sigmoid": "sigmoid_",
    "sqrt": "sqrt_", "floor": "floor_", "ceil": "ceil_", "trunc": "trunc_", "round": "rint_", "abs": "fabs_",
    "pow": "pow_", "copysign": "copysign_", "fmax": "fmax_", "fmin": "fmin_", "maximum": "maximum",
    "minimum": "minimum", "fma": "fma_", "fmod": "fmod_",
}  # fmt: skip
_LIBM = {
    "tan": "tan", "asin": "asin", "acos": "acos", "atan": "atan", "sinh": "sinh", "cosh": "cosh", "asinh": "asinh",
    "acosh": "acosh", "atanh": "atanh", "erfc": "erfc", "lgamma": "lgamma", "atan2": "atan2", "hypot": "hypot",
    "nextafter": "nextafter",
}  # fmt: skip
_INT_LANES = {
    "floordiv": "ifloordiv",
    "mod": "ifloormod",
    "fmod": "imod",
    "truncdiv": "idiv",
    "pow": "ipow",
    "shl": "ishl",
    "shr": "ishr",
}
_FLOAT_LANES = {"floordiv": "ffloordiv", "mod": "ffloormod"}
_HEAVY = frozenset(_LIBM) | {
    "exp",
    "expm1",
    "exp2",
    "log",
    "log2",
    "log10",
    "log1p",
    "sin",
    "cos",
    "tanh",
    "erf",
    "sigmoid",
    "pow",
    "fmod",
    "mod",
    "floordiv",
}


_DIVISIONS = ("floordiv", "mod", "fmod", "truncdiv")


def working_bytes(name: str, dtype: DType, constant: object) -> int:
    """How wide the lanes of an operation's vectors are at their widest: integers are divided as floating point."""
    if name not in _DIVISIONS or not dtype.is_int:
        return held_bytes(dtype)
    if isinstance(constant, int) and _power_of_two(constant) is not None:
        return held_bytes(dtype)
    return 4 if dtype.size_bytes <= 2 else 8


def _power_of_two(value: int) -> int | None:
    """k where the value is 2**k."""
    return value.bit_length() - 1 if value > 0 and value & (value - 1) == 0 else None


def cost(name: str, dtype: DType) -> int:
    """Roughly how many simple instructions an operation is."""
    return (16 if name in _HEAVY else 4 if name in ("div", "sqrt", "rsqrt", "reciprocal", "truncdiv") else 1) + (
        3 if dtype in _HALVES else 0
    )


def operation(name: str, args: list[Reg], out: DType, *, only_stored: bool = False, lane_bytes: int = 8) -> Reg:
    """One elementwise operation applied to values.

    only_stored: the result's rounding can be left to the store. lane_bytes: of the vectors that are worked with.
    """
    vector = any(a.vector for a in args)
    if name == "spread":
        return args[0]
    if name in COMPARISONS and vector and any(a.first for a in args) and not all(a.vector for a in args):
        return _compare_count(name, args, lane_bytes)
    if out is DType.BOOL or args[0].dtype is DType.BOOL:
        return _with_bool(name, args, out, vector)
    known, first = args[-1].constant, _first_of(name, args) if vector else ""
    if vector:
        args = [spread(a) for a in args]
    if known is not None and out.is_int and name in _INT_LANES:
        text = _by_constant(name, args[0].text, known, out, vector)
        if text:
            return Reg(text, out, vector)
    text = _numeric(name, [a.text for a in args], out, vector)
    if first:
        return Reg(text, out, vector, first=first)
    if name in _EXACT or (only_stored and out in _HALVES):
        return Reg(text, out, vector, exact=name in _EXACT)
    return Reg(rounded(text, out), out, vector)


def _first_of(name: str, args: list[Reg]) -> str:
    """The first number where sums with consecutive ones are consecutive."""
    if name not in ("add", "sub") or all(a.vector for a in args) or (name == "sub" and not args[0].first):
        return ""
    a, b = (x.first or x.text for x in args)
    return f"({a} {_INFIX[name]} {b})" if any(x.first for x in args) else ""


def _compare_count(name: str, args: list[Reg], lane_bytes: int) -> Reg:
    """Consecutive numbers in the lanes compared with a scalar: lane numbers with the scalar's, which are small."""
    lane = f"int{8 * lane_bytes}_t"
    counts, scalar = args if args[0].vector else reversed(args)
    texts = [f"iota<{lane}>()", f"lane_of<{lane}>({scalar.text}, {counts.first})"]
    left, right = texts if args[0].vector else reversed(texts)
    return Reg(f"({left} {COMPARISONS[name]} {right})", DType.BOOL, True, lane_bytes)


def _with_bool(name: str, args: list[Reg], out: DType, vector: bool) -> Reg:
    if name == "where":
        return _select(args, out, vector)
    if args[0].dtype is DType.BOOL:
        width = max((a.mask_bytes for a in args), default=1) or 1
        texts = [as_mask(a, width).text if vector else a.text for a in args]
        return Reg(_logic(name, texts, vector), DType.BOOL, vector, width if vector else 0)
    width = held_bytes(args[0].dtype)
    texts = [(spread(a) if vector else a).text for a in args]
    if name in COMPARISONS:
        text = f"{texts[0]} {COMPARISONS[name]} {texts[1]}"
    elif name == "isnan":
        text = f"{texts[0]} != {texts[0]}"
    elif name == "isinf":
        text = f"fabs_({texts[0]}) == {literal(math.inf, args[0].dtype).text}"
    elif name == "signbit":
        lane = f"int{8 * width}_t"
        text = f"bits<{_MASKS[width] if vector else lane}>({texts[0]}) < 0"
    else:
        raise LoweringError(f"no C++ for {name} to bool")
    return Reg(f"({text})", DType.BOOL, vector, width if vector else 0)


def _logic(name: str, t: list[str], vector: bool) -> str:
    if name in _BITS:
        return f"({t[0]} {_BITS[name]} {t[1]})"
    if name == "not":
        return f"(~{t[0]})" if vector else f"(!{t[0]})"
    flip = "~" if vector else "!"
    a, b = t[0], t[-1]
    table = {
        "eq": f"({flip}({a} ^ {b}))", "ne": f"({a} ^ {b})", "maximum": f"({a} | {b})", "minimum": f"({a} & {b})",
        "lt": f"({flip}{a} & {b})", "le": f"({flip}{a} | {b})", "gt": f"({a} & {flip}{b})", "ge": f"({a} | {flip}{b})",
    }  # fmt: skip
    if name not in table:
        raise LoweringError(f"no C++ for {name} of bool")
    return table[name]


def _select(args: list[Reg], out: DType, vector: bool) -> Reg:
    c, a, b = args
    if not vector or not c.vector:
        if vector:
            width = max(a.mask_bytes, b.mask_bytes) or 1
            a, b = (as_mask(x, width) if out is DType.BOOL else spread(x) for x in (a, b))
            return Reg(f"({c.text} ? {a.text} : {b.text})", out, True, a.mask_bytes)
        return Reg(f"({c.text} ? {a.text} : {b.text})", out, False)
    width = (max(c.mask_bytes, a.mask_bytes, b.mask_bytes) or 1) if out is DType.BOOL else held_bytes(out)
    c = as_mask(c, width)
    a, b = (as_mask(x, width) if out is DType.BOOL else spread(x) for x in (a, b))
    return Reg(f"({c.text} ? {a.text} : {b.text})", out, True, width if out is DType.BOOL else 0)


def _numeric(name: str, t: list[str], dtype: DType, vector: bool) -> str:
    is_float = dtype.is_float
    held = HELD[dtype]
    if name in _INFIX:
        text = f"({t[0]} {_INFIX[name]} {t[1]})"
        return text if vector or is_float or dtype.size_bytes >= 4 else f"{held}{text}"
    if name in _BITS:
        return f"({t[0]} {_BITS[name]} {t[1]})" if vector else f"{held}({t[0]} {_BITS[name]} {t[1]})"
    if name == "not":
        return f"(~{t[0]})" if vector else f"{held}(~{t[0]})"
    if name == "neg":
        return f"(-{t[0]})" if vector or is_float or dtype.size_bytes >= 4 else f"{held}(-{t[0]})"
    if not is_float:
        return _integer(name, t, dtype, vector)
    if name in _FUNCTIONS:
        return f"{_FUNCTIONS[name]}({', '.join(t)})"
    if name == "rsqrt":
        return f"(1 / {rounded(f'sqrt_({t[0]})', dtype)})"
    if name == "reciprocal":
        return f"(1 / {t[0]})"
    if name == "sign":
        one, zero = literal(1.0, dtype).text, literal(0.0, dtype).text
        if vector:
            one, zero = f"splat<{held}>({one})", f"splat<{held}>({zero})"
        return f"({t[0]} > 0 ? {one} : {t[0]} < 0 ? -{one} : {zero})"
    if name in _FLOAT_LANES:
        function = f"{_FLOAT_LANES[name]}<{held}>"
        return f"{_FLOAT_LANES[name]}_v({t[0]}, {t[1]})" if vector else f"{function}({t[0]}, {t[1]})"
    if name == "nextafter" and dtype in _HALVES:
        return _nextafter_half(t, dtype, vector)
    if name in _LIBM:
        return _libm_call(_LIBM[name], t, held, vector)
    raise LoweringError(f"no C++ for {name} of {dtype.value}")


def _nextafter_half(t: list[str], dtype: DType, vector: bool) -> str:
    function = f"nextafter_half<{0x7C00 if dtype is DType.F16 else 0x7F80}>"
    a, b = (f"to_{dtype.value}({x})" for x in t)
    return f"from_{dtype.value}({f'per_lane({function}, {a}, {b})' if vector else f'{function}({a}, {b})'})"


def _libm_call(function: str, t: list[str], held: str, vector: bool) -> str:
    call = f"__builtin_{function}{'f' if held == 'float' else ''}"
    if not vector:
        return f"{call}({', '.join(t)})"
    names = ("a", "b")[: len(t)]
    function = f"[]({', '.join(f'{held} {n}' for n in names)}) {{ return {call}({', '.join(names)}); }}"
    return f"per_lane({function}, {', '.join(t)})"


def _by_constant(name: str, a: str, b: int, dtype: DType, vector: bool) -> str:
    """Shifts by a constant that is in range, and division by a power of two; "" for what has no simple form."""
    power = _power_of_two(b)
    if name in ("shl", "shr"):
        forms = {name: f"({a} {'<<' if name == 'shl' else '>>'} {b})"} if 0 <= b < 8 * dtype.size_bytes else {}
    elif power is None:
        forms = {}
    else:
        forms = {
            "floordiv": f"({a} >> {power})", "mod": f"({a} & {b - 1})",
            "truncdiv": f"truncated<{power}>({a})", "fmod": f"({a} - (truncated<{power}>({a}) << {power}))",
        }  # fmt: skip
    text = forms.get(name, "")
    return text if vector or dtype.size_bytes >= 4 or not text else f"{HELD[dtype]}({text})"


def _integer(name: str, t: list[str], dtype: DType, vector: bool) -> str:
    held = HELD[dtype]
    if name in ("maximum", "fmax"):
        return f"({t[0]} > {t[1]} ? {t[0]} : {t[1]})"
    if name in ("minimum", "fmin"):
        return f"({t[0]} < {t[1]} ? {t[0]} : {t[1]})"
    if name == "abs":
        if dtype is DType.U8:
            return t[0]
        negative = f"-{t[0]}" if vector else f"{held}(-{t[0]})"
        return f"({t[0]} < 0 ? {negative} : {t[0]})"
    if name == "sign":
        return f"isign_v({t[0]})" if vector else f"isign<{held}>({t[0]})"
    if name == "checked":
        return f"checked({t[0]}, {t[1]}, {REPORT}{', n' if vector else ''})"
    if name in _INT_LANES:
        function = f"{_INT_LANES[name]}<{held}>"
        if not vector:
            return f"{function}({t[0]}, {t[1]})"
        return f"per_lane({function}, {t[0]}, {t[1]})" if name == "pow" else f"{_INT_LANES[name]}_v({t[0]}, {t[1]})"
    raise LoweringError(f"no C++ for {name} of {dtype.value}")


def cast(x: Reg, out: DType, *, only_stored: bool = False) -> Reg:
    """Conversion as torch's `.to(dtype)`; `only_stored` as for `operation`."""
    text, vector = x.text, x.vector
    held = HELD[out]
    if out is DType.BOOL:
        return Reg(f"({text} != 0)", out, vector, held_bytes(x.dtype) if vector else 0)
    if x.dtype is DType.BOOL:
        if not vector:
            return Reg(f"{held}({text})", out, False)
        ones = f"(-{text})"
        same = _MASKS[x.mask_bytes] == vector_type(out)
        return Reg(ones if same else f"cvt<{vector_type(out)}>({ones})", out, True)
    if out in _HALVES:
        if x.dtype not in (DType.F32, *_HALVES):  # through float, as torch does
            text = f"cvt<f32v>({text})" if vector else f"(float){text}"
        return Reg(text, out, vector, exact=False) if only_stored else Reg(rounded(text, out), out, vector)
    if HELD[x.dtype] == held:
        return Reg(text, out, vector)
    if x.dtype.is_float and out.is_int:
        return _float_to_int(x, out)
    return Reg(f"cvt<{vector_type(out)}>({text})" if vector else f"({held}){text}", out, vector)


def _float_to_int(x: Reg, out: DType) -> Reg:
    held = HELD[out]
    if not x.vector:
        return Reg(f"float_to_int<{held}>({x.text})", out, False)
    return Reg(f"float_to_int_v<{held}>({x.text})", out, True)


def loaded(text: str, dtype: DType, vector: bool) -> Reg:
    """A value as it is held, from what memory has."""
    if dtype is DType.BOOL:
        return Reg(f"({text} != 0)", dtype, vector, 1 if vector else 0)
    if dtype in _HALVES:
        return Reg(f"from_{dtype.value}({text})", dtype, vector)
    return Reg(text, dtype, vector)


def to_store(reg: Reg) -> str:
    """What goes to memory, from a value as it is held."""
    if reg.dtype is DType.BOOL:
        if not reg.vector:
            return f"uint8_t({reg.text})"
        return f"bits<u8v>({as_mask(reg, 1).text} & 1)"
    if reg.dtype in _HALVES:
        return f"{'to' if reg.exact else 'narrow'}_{reg.dtype.value}({reg.text})"
    return reg.text
