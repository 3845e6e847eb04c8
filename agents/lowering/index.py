"""Integer expressions of a sketch: as C++ text, and what can be proved of their range.

An index that is provably inside its dimension needs no check. Expressions become polynomials over atoms that are never
negative (sizes, loop variables that start at 0 or above); a polynomial without negative coefficients is never negative.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from akg_dynamo.agents.lowering.prelude import definitions
from akg_dynamo.agents.sketch import ast as sk

# A polynomial: sorted atoms -> coefficient. () is the constant term.
_Poly = dict[tuple[str, ...], int]


def c_name(name: str) -> str:
    """A user's name as a C++ identifier that collides with nothing in the generated file."""
    return f"{name}_" if name in _RESERVED or name.startswith("__") or _GENERATED.fullmatch(name) else name


_GENERATED = re.compile(r"t\d+|by\d|\w+_\d+|\w+_(block|end|held|lane|tile|v|new)|[fiu]\d+v|u?int\d+_t")
_KEYWORD_TEXT = """
    and asm auto bitand bitor bool break case catch char class compl const continue default delete do double else enum
    explicit export extern false float for friend goto if inline int long mutable namespace new not operator or private
    protected public register return short signed sizeof static struct switch template this throw true try typedef
    typename union unsigned using virtual void volatile while xor
"""
_MACROS = "EVEN_HALVES INLINE LANES MASKED_MOVES MOVE ODD_HALVES PICK ROUND TURNS"
KEYWORDS = frozenset(_KEYWORD_TEXT.split())
"""Of C++."""
_OTHERS = "TURN V W at best main n out_of_range past_caches u"
_RESERVED = KEYWORDS | frozenset(f"{_MACROS} {_OTHERS}".split()) | frozenset(definitions())


def c_text(expr: sk.IntExpr, renamed: Mapping[str, str], outer: int = 0) -> str:
    """C++ for an integer expression. `outer`: the precedence around it (0 none, 1 sum, 2 product or right side)."""
    if isinstance(expr, sk.IntConst):
        return str(expr.value) if expr.value >= 0 else f"({expr.value})"
    if isinstance(expr, sk.IntVar):
        return renamed.get(expr.name) or c_name(expr.name)
    a, b = expr.a, expr.b
    if expr.op in "+-":
        text = f"{c_text(a, renamed)} {expr.op} {c_text(b, renamed, 2)}"
        return f"({text})" if outer >= 1 else text
    if expr.op == "*":
        text = f"{c_text(a, renamed, 1)} * {c_text(b, renamed, 2)}"
        return f"({text})" if outer >= 2 else text
    function = {"//": "floordiv_index", "%": "mod_index", "min": "min2<int64_t>", "max": "max2<int64_t>"}[expr.op]
    return f"{function}({c_text(a, renamed)}, {c_text(b, renamed)})"


def is_const(expr: sk.IntExpr, value: int) -> bool:
    """Whether it is that literal."""
    return isinstance(expr, sk.IntConst) and expr.value == value


def times(a: sk.IntExpr, b: sk.IntExpr) -> sk.IntExpr:
    """A product without factors of 1."""
    if is_const(a, 1):
        return b
    if is_const(b, 1):
        return a
    return sk.IntBin("*", a, b)


def strides_of(decl: sk.TensorDecl) -> tuple[sk.IntExpr, ...]:
    """A tensor's strides, the contiguous ones if it states none."""
    if decl.strides is not None:
        return decl.strides
    out: list[sk.IntExpr] = []
    step: sk.IntExpr = sk.IntConst(1)
    for size in reversed(decl.shape):
        out.append(step)
        step = times(size, step)
    return tuple(reversed(out))


@dataclass
class Ranges:
    """What is known of the integer names in scope: a loop variable's bounds; that a symbol is not negative."""

    constexprs: Mapping[str, int]
    loops: dict[str, tuple[sk.IntExpr, sk.IntExpr]] = field(default_factory=dict)  # name -> start, stop

    def inside(self, low: sk.IntExpr, last: sk.IntExpr, size: sk.IntExpr) -> bool:
        """Whether 0 <= low and last < size are certain."""
        first = self._bound(low, upper=False)
        top = self._bound(last, upper=True)
        dim = self._bound(size, upper=False)
        if first is None or top is None or dim is None:
            return False
        return _never_negative(first) and _never_negative(_add(_add(dim, top, -1), {(): 1}, -1))

    def _bound(self, expr: sk.IntExpr, upper: bool) -> _Poly | None:
        """A polynomial in symbols that is certainly >= (or <=) the expression."""
        if isinstance(expr, sk.IntConst):
            return {(): expr.value}
        if isinstance(expr, sk.IntVar):
            if expr.name in self.constexprs:
                return {(): self.constexprs[expr.name]}
            if expr.name in self.loops:
                start, stop = self.loops[expr.name]
                if not upper:
                    return self._bound(start, upper=False)
                top = self._bound(stop, upper=True)
                return None if top is None else _add(top, {(): 1}, -1)
            return {(expr.name,): 1}
        if expr.op in "+-":
            a = self._bound(expr.a, upper)
            b = self._bound(expr.b, upper if expr.op == "+" else not upper)
            return None if a is None or b is None else _add(a, b, 1 if expr.op == "+" else -1)
        if expr.op == "*":
            return self._product(expr, upper)
        if expr.op in ("min", "max"):
            a, b = self._bound(expr.a, upper), self._bound(expr.b, upper)
            if (expr.op == "min") == upper:  # either side bounds it
                return a if b is None or (a is not None and _never_negative(_add(b, a, -1))) else b
            if a is None or b is None:
                return None
            if _never_negative(_add(a, b, -1)):
                return a if upper else b
            return (b if upper else a) if _never_negative(_add(b, a, -1)) else None
        return self._quotient(expr, upper)

    def _product(self, expr: sk.IntBin, upper: bool) -> _Poly | None:
        a, b = self._bound(expr.a, upper), self._bound(expr.b, upper)
        low = [self._bound(e, upper=False) for e in (expr.a, expr.b)]
        if a is None or b is None or any(p is None or not _never_negative(p) for p in low):
            return None
        product: _Poly = {}
        for m, c in a.items():
            for n, d in b.items():
                key = tuple(sorted((*m, *n)))
                product[key] = product.get(key, 0) + c * d
        return product

    def _quotient(self, expr: sk.IntBin, upper: bool) -> _Poly | None:
        low = self._bound(expr.a, upper=False)
        divisor = self._bound(expr.b, upper=False)
        if low is None or divisor is None or not _never_negative(low) or not _never_negative(divisor):
            return None
        if not upper:
            return {}
        if self._bound(expr.b, upper=True) != divisor:
            return None
        if expr.op == "%":
            return _add(divisor, {(): 1}, -1)
        top = self._bound(expr.a, upper=True)
        if top is None:
            return None
        quotient = _divide(_add(top, {(): 1}, 1), divisor)
        return None if quotient is None else _add(quotient, {(): 1}, -1)


def _add(a: _Poly, b: _Poly, sign: int) -> _Poly:
    out = dict(a)
    for m, c in b.items():
        out[m] = out.get(m, 0) + sign * c
    return {m: c for m, c in out.items() if c}


def _never_negative(p: _Poly) -> bool:
    return all(c >= 0 for c in p.values())


def _divide(a: _Poly, by: _Poly) -> _Poly | None:
    """a / by where `by` is one monomial that divides every term."""
    if len(by) != 1:
        return None
    ((factors, coefficient),) = by.items()
    out: _Poly = {}
    for m, c in a.items():
        rest = list(m)
        for f in factors:
            if f not in rest:
                return None
            rest.remove(f)
        if coefficient == 0 or c % coefficient:
            return None
        out[tuple(rest)] = c // coefficient
    return out
