"""Integer expressions of sketches: folding, linear normal form, evaluation, free variables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from akg_dynamo.agents.sketch.ast import IntBin, IntConst, IntExpr, IntVar

_ZERO = IntConst(0)
_ONE = IntConst(1)


def apply_int(op: str, a: int, b: int) -> int:
    """One integer operation; ZeroDivisionError as Python's."""
    match op:
        case "+":
            return a + b
        case "-":
            return a - b
        case "*":
            return a * b
        case "//":
            return a // b
        case "%":
            return a % b
        case "min":
            return min(a, b)
        case "max":
            return max(a, b)
    raise ValueError(f"no integer operation {op!r}")


def evaluate(expr: IntExpr, values: Mapping[str, int]) -> int:
    """The value under `values`; KeyError for a variable that has none, ZeroDivisionError as Python's."""
    if isinstance(expr, IntConst):
        return expr.value
    if isinstance(expr, IntVar):
        return values[expr.name]
    return apply_int(expr.op, evaluate(expr.a, values), evaluate(expr.b, values))


def variables(expr: IntExpr) -> Iterator[str]:
    """The names it reads, with repeats."""
    if isinstance(expr, IntVar):
        yield expr.name
    elif isinstance(expr, IntBin):
        yield from variables(expr.a)
        yield from variables(expr.b)


def linear(expr: IntExpr) -> dict[IntExpr, int]:
    """Coefficients by term, without zeros; the constant's term is ``IntConst(1)``.

    What is not linear (a quotient, a product of variables) is a term by itself, so two expressions with equal results
    are equal, but not the other way round.
    """
    terms: dict[IntExpr, int] = {}

    def add(e: IntExpr, factor: int) -> None:
        if isinstance(e, IntConst):
            terms[_ONE] = terms.get(_ONE, 0) + factor * e.value
        elif isinstance(e, IntBin) and e.op in ("+", "-"):
            add(e.a, factor)
            add(e.b, factor if e.op == "+" else -factor)
        elif isinstance(e, IntBin) and e.op == "*" and isinstance(right := simplify(e.b), IntConst):
            add(e.a, factor * right.value)
        elif isinstance(e, IntBin) and e.op == "*" and isinstance(left := simplify(e.a), IntConst):
            add(e.b, factor * left.value)
        else:
            terms[e] = terms.get(e, 0) + factor

    add(expr, 1)
    return {term: c for term, c in terms.items() if c}


def simplify(expr: IntExpr) -> IntExpr:
    """Folds constants and drops what does nothing: x*1, x+0, x*0, x-x, x//1, x%1."""
    if not isinstance(expr, IntBin):
        return expr
    a, b = simplify(expr.a), simplify(expr.b)
    op = expr.op
    if isinstance(a, IntConst) and isinstance(b, IntConst) and not (op in ("//", "%") and b.value == 0):
        return IntConst(apply_int(op, a.value, b.value))
    if op in ("+", "*") and isinstance(a, IntConst):
        a, b = b, a  # constants to the right, so that the rules below see them
    if op == "+" and isinstance(b, IntConst):
        return _plus(a, b.value)
    if op == "-":
        if a == b:
            return _ZERO
        if isinstance(b, IntConst):
            return _plus(a, -b.value)
    if op == "*" and isinstance(b, IntConst):
        if b.value in (0, 1):
            return _ZERO if b.value == 0 else a
        if isinstance(a, IntBin) and a.op == "*" and isinstance(a.b, IntConst):
            return IntBin("*", a.a, IntConst(a.b.value * b.value))
    if op == "//" and b == _ONE:
        return a
    if op == "%" and b == _ONE:
        return _ZERO
    if op in ("min", "max") and a == b:
        return a
    return IntBin(op, a, b)


def _plus(a: IntExpr, constant: int) -> IntExpr:
    """a + constant, merged with a constant that ends `a`."""
    if isinstance(a, IntBin) and a.op in ("+", "-") and isinstance(a.b, IntConst):
        constant += a.b.value if a.op == "+" else -a.b.value
        a = a.a
    if constant == 0:
        return a
    return IntBin("+", a, IntConst(constant)) if constant > 0 else IntBin("-", a, IntConst(-constant))
