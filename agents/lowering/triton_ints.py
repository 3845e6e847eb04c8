"""Integer expressions of a sketch as Triton: text with the range it can take, for 64 bits where 32 would overflow.

A literal takes the width of what it meets. A run-time symbol is an int64 parameter, so whatever is computed from it is
64 bits wide by itself; a product of 32-bit integers whose range does not fit is made of a 64-bit factor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from akg_dynamo.agents.sketch import ast as sk

# How tightly a Python expression binds.
COMPARISON, OR, XOR, AND, SHIFT, SUM, PRODUCT, UNARY, ATOM = range(9)
LEVELS = {
    "|": OR, "^": XOR, "&": AND, "<<": SHIFT, ">>": SHIFT, "+": SUM, "-": SUM, "*": PRODUCT, "/": PRODUCT,
    "//": PRODUCT, "%": PRODUCT, "==": COMPARISON, "!=": COMPARISON, "<": COMPARISON, "<=": COMPARISON,
    ">": COMPARISON, ">=": COMPARISON,
}  # fmt: skip
_LOW, _HIGH = -(2**31), 2**31 - 1


@dataclass(frozen=True)
class Int:
    """An integer in Triton: a scalar or the lanes of an axis. low, high: the range it can take, None when unknown."""

    text: str
    level: int
    low: int | None
    high: int | None
    wide: bool  # 64 bits
    literal: bool = False

    @property
    def fits(self) -> bool:
        """Whether every value it can take has 32 bits."""
        return self.low is not None and self.high is not None and self.low >= _LOW and self.high <= _HIGH

    @property
    def negative(self) -> bool:
        """Whether it may be below zero."""
        return self.low is None or self.low < 0

    def at(self, level: int) -> str:
        """The text as an operand of an operation of that level."""
        return self.text if self.level >= level else f"({self.text})"


def number(value: int) -> Int:
    """A literal."""
    return Int(str(value), ATOM if value >= 0 else UNARY, value, value, not _LOW <= value <= _HIGH, literal=True)


def widened(x: Int) -> Int:
    """In 64 bits."""
    return x if x.wide or x.literal else Int(f"{x.at(ATOM)}.to(tl.int64)", ATOM, x.low, x.high, True)


def combine(op: str, a: Int, b: Int) -> Int:
    """``a op b`` for one of + - * // % min max; // and % round towards minus infinity."""
    low, high = _range(op, a, b)
    if a.literal and b.literal and low is not None and low == high:
        return number(low)
    if op == "*" and "0" in (a.text, b.text):
        return number(0)
    if (a.text, op) in (("0", "+"), ("1", "*")):
        return b
    if (b.text, op) in (("0", "+"), ("0", "-"), ("1", "*"), ("1", "//")):
        return a
    result = Int("", ATOM, low, high, True)
    wide = a.wide or b.wide or not result.fits
    if wide and not (a.wide and not a.literal) and not (b.wide and not b.literal):
        if a.literal:
            b = widened(b)
        else:
            a = widened(a)
    if op in ("min", "max"):
        return Int(f"tl.{op}imum({a.text}, {b.text})", ATOM, low, high, wide)
    if op in ("//", "%") and (a.negative or b.negative):
        name = "floor_div" if op == "//" else "floor_mod"
        return Int(f"{name}({a.text}, {b.text})", ATOM, low, high, wide)
    level = LEVELS[op]
    if op == "+" and b.literal and b.high is not None and b.high < 0:
        op, b = "-", number(-b.high)
    right = level if op in "+*" and b.level != level else level + 1
    return Int(f"{a.at(level)} {op} {b.at(right)}", level, low, high, wide)


def _range(op: str, a: Int, b: Int) -> tuple[int | None, int | None]:
    """What `a op b` can be."""
    if op == "+":
        return _plus(a.low, b.low), _plus(a.high, b.high)
    if op == "-":
        return _plus(a.low, _minus(b.high)), _plus(a.high, _minus(b.low))
    if op == "min":
        low = None if a.low is None or b.low is None else min(a.low, b.low)
        return low, min((x for x in (a.high, b.high) if x is not None), default=None)
    if op == "max":
        high = None if a.high is None or b.high is None else max(a.high, b.high)
        return max((x for x in (a.low, b.low) if x is not None), default=None), high
    if op == "*":
        return _product(a, b)
    if b.low is None or b.low <= 0:
        return None, None
    if op == "%":
        return 0, None if b.high is None else b.high - 1
    low = None if a.low is None else (a.low // b.low if a.low < 0 else 0 if b.high is None else a.low // b.high)
    high = None if a.high is None else (a.high // b.low if a.high >= 0 else -1)
    return low, high


def _product(a: Int, b: Int) -> tuple[int | None, int | None]:
    if None not in (a.low, a.high, b.low, b.high):
        ends = [x * y for x in (a.low, a.high) for y in (b.low, b.high) if x is not None and y is not None]
        return min(ends), max(ends)
    if not a.negative and not b.negative:
        assert a.low is not None
        assert b.low is not None
        return a.low * b.low, None
    return None, None


def _plus(a: int | None, b: int | None) -> int | None:
    return None if a is None or b is None else a + b


def _minus(a: int | None) -> int | None:
    return None if a is None else -a


def int_text(expr: sk.IntExpr, names: Mapping[str, Int]) -> Int:
    """An integer expression over the names in scope."""
    if isinstance(expr, sk.IntConst):
        return number(expr.value)
    if isinstance(expr, sk.IntVar):
        return names[expr.name]
    return combine(expr.op, int_text(expr.a, names), int_text(expr.b, names))


def python_text(expr: sk.IntExpr, outer: int = 0) -> str:
    """Python for an integer expression over symbols, as the launcher evaluates it."""
    if isinstance(expr, sk.IntConst):
        return str(expr.value) if expr.value >= 0 else f"({expr.value})"
    if isinstance(expr, sk.IntVar):
        return expr.name
    if expr.op in ("min", "max"):
        return f"{expr.op}({python_text(expr.a)}, {python_text(expr.b)})"
    level = LEVELS[expr.op]
    text = f"{python_text(expr.a, level)} {expr.op} {python_text(expr.b, level + 1)}"
    return text if level >= outer else f"({text})"
