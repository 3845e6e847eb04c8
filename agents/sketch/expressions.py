"""Parsing inside a statement: tile expressions, integer expressions, tensor accesses."""

from __future__ import annotations

import difflib
import math

from akg_dynamo.agents.sketch.ast import (
    At,
    Cast,
    Dot,
    DType,
    Gather,
    Index,
    IndexValue,
    IntBin,
    IntConst,
    IntExpr,
    IntVar,
    Lanes,
    Literal,
    Load,
    Name,
    Op,
    Reduce,
    Scan,
    Span,
    TensorRef,
    TileExpr,
)
from akg_dynamo.agents.sketch.intexpr import linear
from akg_dynamo.agents.sketch.lexer import Cursor
from akg_dynamo.agents.sketch.ops import INFIX, OPS, PRECEDENCE, REDUCTIONS, SCANS

_DTYPES = {d.value: d for d in DType}
_NUMBERS = {"inf": math.inf, "nan": math.nan, "True": True, "False": False}
_INT_LEVELS = (("+", "-"), ("*", "//", "%"))
_MAX_DEPTH = 60  # of brackets inside one expression: deeper ones would exhaust Python's stack


class ExpressionParser:
    """The part of the parser inside a statement. `ints` and `axes` are the integer names and axes in scope."""

    def __init__(self) -> None:
        self.ints: set[str] = set()
        self.axes: dict[str, str | int] = {}

    def integer(self, c: Cursor) -> int:
        sign = -1 if c.accept("-") else 1
        if c.token.kind != "number" or not c.token.text.isdigit():
            raise c.error(f"expected an integer, found {c.token}")
        return sign * int(c.next().text)

    def dtype(self, c: Cursor) -> DType:
        text = c.name("a dtype")
        if text not in _DTYPES:
            raise c.error(f"no dtype '{text}': expected one of {', '.join(_DTYPES)}")
        return _DTYPES[text]

    # --------------------------------------------------------------------------------------------- tile expressions

    def expr(self, c: Cursor, level: int = 0) -> TileExpr:
        if level == len(PRECEDENCE):
            return self._unary(c)
        left = self.expr(c, level + 1)
        while c.is_op(*PRECEDENCE[level]):
            op = c.next()
            left = Op(INFIX[op.text], (left, self.expr(c, level + 1)))
            if level == 0 and c.is_op(*PRECEDENCE[0]):
                raise c.error("comparisons do not chain: write (a < b) & (b < c)")
        return left

    def _unary(self, c: Cursor) -> TileExpr:
        if c.is_op("-", "~"):
            op = c.next().text
            if op == "-" and (c.token.kind == "number" or c.is_name("inf", "nan")):
                return Literal(-self.number(c))
            self._enter(c)
            operand = self._unary(c)
            c.depth -= 1
            return Op("neg" if op == "-" else "not", (operand,))
        return self._primary(c)

    @staticmethod
    def _enter(c: Cursor) -> None:
        c.depth += 1
        if c.depth > _MAX_DEPTH:
            raise c.error("an expression nested too deeply: give its parts names")

    def _primary(self, c: Cursor) -> TileExpr:
        if c.token.kind == "number" or c.is_name(*_NUMBERS):
            return Literal(self.number(c))
        if c.accept("("):
            self._enter(c)
            inner = self.expr(c)
            c.expect(")", "to close the bracket")
            c.depth -= 1
            return inner
        if c.token.kind != "name":
            raise c.error(f"expected an expression, found {c.token}")
        if c.ahead.text == "(":
            value, _ = self.call(c, arrow=False)
            return value
        name = c.next().text
        if c.is_op("["):
            raise c.error(f"a tensor is read by load({name}[…])")
        if name in self.axes:
            raise c.error(f"'{name}' is an axis: write lanes({name}) for its indices, index({name}) for its first")
        return IndexValue(IntVar(name)) if name in self.ints else Name(name)

    def number(self, c: Cursor) -> float | int | bool:
        """A literal with its sign."""
        negative = c.accept("-") is not None
        text = c.token.text
        value: float | int | bool
        if c.token.kind == "number":
            value = int(text) if text.isdigit() else float(text)
        elif c.is_name(*_NUMBERS):
            value = _NUMBERS[text]
        else:
            raise c.error(f"expected a number, found {c.token}")
        if negative and isinstance(value, bool):
            raise c.error("a bool has no sign")
        c.next()
        return -value if negative else value

    def call(self, c: Cursor, *, arrow: bool) -> tuple[TileExpr, str | None]:
        """``function(…)``; with `arrow`, also ``function(… -> name)``, whose name comes second."""
        function = c.next()
        self._enter(c)
        c.next()
        value = self._called(c, function.text)
        target: str | None = None
        if arrow and c.accept("->"):
            target = c.name("the name to assign")
        c.expect(")", f"at the end of '{function.text}(…'")
        c.depth -= 1
        return value, target

    def _called(self, c: Cursor, function: str) -> TileExpr:
        if function == "load":
            return self._load(c)
        if function == "cast":
            x = self.expr(c)
            c.expect(",", "and a dtype")
            return Cast(x, self.dtype(c))
        if function == "index":
            return IndexValue(self.int_expr(c))
        if function == "lanes":
            return Lanes(c.name("an axis"))
        if function == "dot":
            return self._dot(c)
        if function in _DTYPES:
            return self._typed(c, _DTYPES[function])
        prefix, _, op = function.partition("_")
        if prefix in ("reduce", "scan") and op in (REDUCTIONS if prefix == "reduce" else SCANS):
            x = self.expr(c)
            c.expect(",", f"and the axis of '{function}'")
            axis = c.name("an axis")
            return Reduce(op, x, axis) if prefix == "reduce" else Scan(op, x, axis)
        if function not in OPS:
            raise c.error(f"no operation '{function}'{_suggest(function)}")
        args: list[TileExpr] = []
        while not c.is_op(")", "->"):
            args.append(self.expr(c))
            if not c.accept(","):
                break
        info = OPS[function]
        if len(args) != info.arity:
            raise c.error(f"'{function}' takes {info.arity} operand{'s' * (info.arity > 1)}, found {len(args)}")
        return Op(function, tuple(args))

    def _typed(self, c: Cursor, dtype: DType) -> TileExpr:
        """``f32(0.5)``: a literal with a dtype; of any other expression, a cast."""
        inner = self.expr(c)
        if isinstance(inner, Literal) and inner.dtype is None:
            return Literal(inner.value, dtype)
        return Cast(inner, dtype)

    def _load(self, c: Cursor) -> Load:
        ref = self.ref(c)
        other: float | int | bool = 0
        where: TileExpr | None = None
        while c.accept(","):
            key = c.name("'other' or 'where'")
            c.expect("=", f"after '{key}'")
            if key == "other":
                other = self.number(c)
            elif key == "where":
                where = self.expr(c)
            else:
                raise c.error(f"load takes other and where, not '{key}'")
        return Load(ref, other, where)

    def _dot(self, c: Cursor) -> Dot:
        a = self.expr(c)
        c.expect(",", "and the second operand of 'dot'")
        b = self.expr(c)
        c.expect(",", "and the axis that 'dot' sums over")
        axis = c.name("an axis")
        precision = "ieee"
        if c.accept(","):
            c.expect("precision", "as the last argument of 'dot'")
            c.expect("=", "after 'precision'")
            if c.token.kind not in ("string", "name"):
                raise c.error(f'expected a precision such as "ieee", found {c.token}')
            precision = c.next().text.strip("\"'")
        return Dot(a, b, axis, precision)

    # ------------------------------------------------------------------------------------------------------ accesses

    def ref(self, c: Cursor) -> TensorRef:
        name = c.name("a tensor's name")
        c.expect("[", f"and indices after tensor '{name}'")
        indices: list[Index] = []
        while not c.is_op("]"):
            indices.append(self._index(c))
            if not c.accept(","):
                break
        c.expect("]", "after the indices")
        return TensorRef(name, tuple(indices))

    def _index(self, c: Cursor) -> Index:
        if c.is_name() and c.ahead.text in (",", "]") and c.token.text not in self.ints:
            return Gather(c.next().text)
        if c.is_op(":"):
            raise c.error("a slice needs both its bounds: j:j+BN")
        low = self.int_expr(c)
        if not c.accept(":"):
            return At(low)
        high = self.int_expr(c)
        return self._span(low, high, c)

    def _span(self, low: IntExpr, high: IntExpr, c: Cursor) -> Span:
        for axis, size in self.axes.items():
            shift = _without(axis, low)
            if shift is None:
                continue
            width: IntExpr = IntVar(size) if isinstance(size, str) else IntConst(size)
            if linear(IntBin("-", high, low)) != linear(width):
                raise c.error(
                    f"a slice along axis '{axis}' has {size} lanes: write {axis}:{axis}+{size}, both shifted alike"
                )
            return Span(axis, shift)
        raise c.error("a slice must start at an axis in scope (a loop with a step, or an 'axis'), such as j:j+BN")

    def int_expr(self, c: Cursor, level: int = 0) -> IntExpr:
        if level == len(_INT_LEVELS):
            return self._int_unary(c)
        left = self.int_expr(c, level + 1)
        while c.is_op(*_INT_LEVELS[level]):
            op = c.next().text
            left = IntBin(op, left, self.int_expr(c, level + 1))
        if c.is_op("/"):
            raise c.error("integer expressions divide by '//'")
        return left

    def _int_unary(self, c: Cursor) -> IntExpr:
        if c.accept("-"):
            if c.token.kind == "number" and c.token.text.isdigit():
                return IntConst(-int(c.next().text))
            self._enter(c)
            operand = self._int_unary(c)
            c.depth -= 1
            return IntBin("-", IntConst(0), operand)
        if c.token.kind == "number":
            return IntConst(self.integer(c))
        if c.accept("("):
            self._enter(c)
            inner = self.int_expr(c)
            c.expect(")", "to close the bracket")
            c.depth -= 1
            return inner
        name = c.name("an integer expression")
        if not c.is_op("("):
            return IntVar(name)
        if name not in ("min", "max"):
            raise c.error(f"integer expressions have + - * // % min max, not '{name}'")
        self._enter(c)
        c.next()
        a = self.int_expr(c)
        c.expect(",", f"between the two operands of '{name}'")
        b = self.int_expr(c)
        c.expect(")", f"after the two operands of '{name}'")
        c.depth -= 1
        return IntBin(name, a, b)


def _without(axis: str, expr: IntExpr) -> IntExpr | None:
    """expr - axis, when the axis is one of the terms that `expr` adds up; None otherwise."""
    if expr == IntVar(axis):
        return IntConst(0)
    if not isinstance(expr, IntBin) or expr.op not in ("+", "-"):
        return None
    rest = _without(axis, expr.a)
    if rest is not None:
        if rest != IntConst(0):
            return IntBin(expr.op, rest, expr.b)
        if expr.op == "+":
            return expr.b
        return IntConst(-expr.b.value) if isinstance(expr.b, IntConst) else IntBin("-", IntConst(0), expr.b)
    rest = _without(axis, expr.b) if expr.op == "+" else None
    if rest is None:
        return None
    return expr.a if rest == IntConst(0) else IntBin("+", expr.a, rest)


def _suggest(word: str) -> str:
    known = [
        *OPS,
        *(f"reduce_{r}" for r in REDUCTIONS),
        *(f"scan_{s}" for s in SCANS),
        "load",
        "cast",
        "dot",
        "lanes",
        "index",
    ]
    close = difflib.get_close_matches(word, known, n=2)
    return f": did you mean {' or '.join(close)}?" if close else ""
