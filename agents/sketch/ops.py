"""The elementwise operations of the sketch language: one table for checker, interpreter and lowerings."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Rule(enum.Enum):
    """Which operand dtypes an operation takes and what it gives."""

    ARITH = "same dtype in and out; floats and integers"
    FLOAT = "same dtype in and out; floats only"
    INT = "same dtype in and out; integers only"
    BITS = "same dtype in and out; integers and bool"
    INDEX = "i64 in and out"
    ANY = "same dtype in and out; any"
    COMPARE = "same dtype in, bool out; any"
    TEST = "float in, bool out"
    SELECT = "where(bool, a, b): a and b of one dtype, which is the result's"


@dataclass(frozen=True)
class OpInfo:
    """`infix` is how text writes it when Python has an operator; `means` is the exact semantics."""

    name: str
    arity: int
    rule: Rule
    means: str
    infix: str = ""


_TABLE = (
    OpInfo("add", 2, Rule.ARITH, "a + b", "+"),
    OpInfo("sub", 2, Rule.ARITH, "a - b", "-"),
    OpInfo("mul", 2, Rule.ARITH, "a * b", "*"),
    OpInfo("div", 2, Rule.FLOAT, "a / b, IEEE", "/"),
    OpInfo(
        "floordiv",
        2,
        Rule.ARITH,
        "rounded towards minus infinity; floats as torch.floor_divide; an integer by 0 is an error",
        "//",
    ),
    OpInfo("mod", 2, Rule.ARITH, "torch.remainder: the sign of b", "%"),
    OpInfo("fmod", 2, Rule.ARITH, "torch.fmod: the sign of a"),
    OpInfo("truncdiv", 2, Rule.INT, "integer division rounded towards zero"),
    OpInfo("pow", 2, Rule.ARITH, "torch.pow; integers by repeated multiplication, negative exponents as torch"),
    OpInfo("maximum", 2, Rule.ANY, "the larger; NaN if either is NaN"),
    OpInfo("minimum", 2, Rule.ANY, "the smaller; NaN if either is NaN"),
    OpInfo("fmax", 2, Rule.ARITH, "the larger; the other if one is NaN"),
    OpInfo("fmin", 2, Rule.ARITH, "the smaller; the other if one is NaN"),
    OpInfo("atan2", 2, Rule.FLOAT, "atan2(a, b)"),
    OpInfo("hypot", 2, Rule.FLOAT, "sqrt(a*a + b*b) without overflow"),
    OpInfo("copysign", 2, Rule.FLOAT, "|a| with the sign of b"),
    OpInfo("nextafter", 2, Rule.FLOAT, "the next value after a towards b"),
    OpInfo("fma", 3, Rule.FLOAT, "a * b + c with one rounding"),
    OpInfo("neg", 1, Rule.ARITH, "-a"),
    OpInfo("abs", 1, Rule.ARITH, "|a|"),
    OpInfo("sign", 1, Rule.ARITH, "-1, 0, 1; sign(NaN) = 0 as torch.sign"),
    OpInfo("sqrt", 1, Rule.FLOAT, "correctly rounded square root"),
    OpInfo("rsqrt", 1, Rule.FLOAT, "1 / sqrt(a), each rounded"),
    OpInfo("reciprocal", 1, Rule.FLOAT, "1 / a"),
    OpInfo("exp", 1, Rule.FLOAT, "e**a"),
    OpInfo("exp2", 1, Rule.FLOAT, "2**a"),
    OpInfo("expm1", 1, Rule.FLOAT, "e**a - 1"),
    OpInfo("log", 1, Rule.FLOAT, "natural logarithm"),
    OpInfo("log2", 1, Rule.FLOAT, "base 2"),
    OpInfo("log10", 1, Rule.FLOAT, "base 10"),
    OpInfo("log1p", 1, Rule.FLOAT, "log(1 + a)"),
    OpInfo("sin", 1, Rule.FLOAT, "sine"),
    OpInfo("cos", 1, Rule.FLOAT, "cosine"),
    OpInfo("tan", 1, Rule.FLOAT, "tangent"),
    OpInfo("asin", 1, Rule.FLOAT, "inverse sine"),
    OpInfo("acos", 1, Rule.FLOAT, "inverse cosine"),
    OpInfo("atan", 1, Rule.FLOAT, "inverse tangent"),
    OpInfo("sinh", 1, Rule.FLOAT, "hyperbolic sine"),
    OpInfo("cosh", 1, Rule.FLOAT, "hyperbolic cosine"),
    OpInfo("tanh", 1, Rule.FLOAT, "hyperbolic tangent"),
    OpInfo("asinh", 1, Rule.FLOAT, "inverse hyperbolic sine"),
    OpInfo("acosh", 1, Rule.FLOAT, "inverse hyperbolic cosine"),
    OpInfo("atanh", 1, Rule.FLOAT, "inverse hyperbolic tangent"),
    OpInfo("sigmoid", 1, Rule.FLOAT, "1 / (1 + exp(-a))"),
    OpInfo("erf", 1, Rule.FLOAT, "error function"),
    OpInfo("erfc", 1, Rule.FLOAT, "1 - erf(a)"),
    OpInfo("lgamma", 1, Rule.FLOAT, "log |gamma(a)|"),
    OpInfo("floor", 1, Rule.FLOAT, "towards minus infinity"),
    OpInfo("ceil", 1, Rule.FLOAT, "towards plus infinity"),
    OpInfo("trunc", 1, Rule.FLOAT, "towards zero"),
    OpInfo("round", 1, Rule.FLOAT, "to nearest, ties to even"),
    OpInfo("isnan", 1, Rule.TEST, "a is NaN"),
    OpInfo("isinf", 1, Rule.TEST, "a is infinite"),
    OpInfo("signbit", 1, Rule.TEST, "the sign bit is set"),
    OpInfo("eq", 2, Rule.COMPARE, "a == b", "=="),
    OpInfo("ne", 2, Rule.COMPARE, "a != b", "!="),
    OpInfo("lt", 2, Rule.COMPARE, "a < b", "<"),
    OpInfo("le", 2, Rule.COMPARE, "a <= b", "<="),
    OpInfo("gt", 2, Rule.COMPARE, "a > b", ">"),
    OpInfo("ge", 2, Rule.COMPARE, "a >= b", ">="),
    OpInfo("and", 2, Rule.BITS, "bitwise; logical for bool", "&"),
    OpInfo("or", 2, Rule.BITS, "bitwise; logical for bool", "|"),
    OpInfo("xor", 2, Rule.BITS, "bitwise; logical for bool", "^"),
    OpInfo("not", 1, Rule.BITS, "bitwise; logical for bool", "~"),
    OpInfo("shl", 2, Rule.INT, "a << b as torch (0 when b is out of range)", "<<"),
    OpInfo("shr", 2, Rule.INT, "arithmetic a >> b as torch (0 or -1, by the sign, when b is out of range)", ">>"),
    OpInfo(
        "checked",
        2,
        Rule.INDEX,
        "a, a position that whoever calls must keep in 0 <= a < b: where it is not, the launch says so and none of its "
        "results count",
    ),
    OpInfo("where", 3, Rule.SELECT, "a where the condition holds, else b"),
)

OPS: dict[str, OpInfo] = {info.name: info for info in _TABLE}
REDUCTIONS = ("sum", "prod", "max", "min", "any", "all", "argmax", "argmin")
SCANS = ("sum", "prod", "max", "min")

INFIX: dict[str, str] = {info.infix: info.name for info in _TABLE if info.infix and info.arity == 2}
"""Python's binary operators, to the operation each one is."""

PRECEDENCE = (
    ("==", "!=", "<", "<=", ">", ">="),
    ("|",),
    ("^",),
    ("&",),
    ("<<", ">>"),
    ("+", "-"),
    ("*", "/", "//", "%"),
)
"""Binary operators by level, loosest first, as in Python. `-` and `~` in front bind tighter than all of them."""
