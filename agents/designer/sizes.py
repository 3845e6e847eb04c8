"""Sizes: integers, or polynomials over the subgraph's symbols, with just the algebra that index maps need.

A static size is a plain `int`; only symbolic ones are `Poly`, so that designing a static subgraph costs integer
arithmetic. What is not a polynomial (``s0 // 2``, ``max(s0, 4)``) becomes an opaque atom of one.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TypeAlias

from akg_dynamo.core.types import Dim, Symbol

Monomial: TypeAlias = "tuple[str, ...]"
Size: TypeAlias = "int | Poly"


@dataclass(frozen=True)
class Poly:
    """A polynomial: (monomial, coefficient) pairs, sorted; a monomial is a sorted tuple of atoms. Never a constant."""

    terms: tuple[tuple[Monomial, int], ...]

    def __add__(self, other: Size) -> Size:
        return _poly([*self.terms, *_terms(other)])

    __radd__ = __add__

    def __neg__(self) -> Size:
        return _poly([(m, -c) for m, c in self.terms])

    def __sub__(self, other: Size) -> Size:
        return self + (-other)

    def __rsub__(self, other: Size) -> Size:
        return (-self) + other

    def __mul__(self, other: Size) -> Size:
        return _poly([(tuple(sorted(m + n)), c * d) for m, c in self.terms for n, d in _terms(other)])

    __rmul__ = __mul__

    def __str__(self) -> str:
        parts = []
        for monomial, c in self.terms:
            factors = list(monomial) if c == 1 and monomial else [str(c), *monomial]
            parts.append("*".join(factors))
        return " + ".join(parts)


def _terms(size: Size) -> tuple[tuple[Monomial, int], ...]:
    return size.terms if isinstance(size, Poly) else (((), size),)


def _poly(terms: Iterable[tuple[Monomial, int]]) -> Size:
    total: dict[Monomial, int] = {}
    for m, c in terms:
        total[m] = total.get(m, 0) + c
    kept = tuple(sorted((m, c) for m, c in total.items() if c))
    if not kept:
        return 0
    if len(kept) == 1 and kept[0][0] == ():
        return kept[0][1]
    return Poly(kept)


def product(sizes: Iterable[Size]) -> Size:
    """The product of sizes."""
    result: Size = 1
    for s in sizes:
        result = result * s
    return result


def exact_div(a: Size, b: Size) -> Size | None:
    """a / b when that is a polynomial with integer coefficients, else None. Zero divides nothing."""
    if isinstance(a, int) and isinstance(b, int):
        return a // b if b and a % b == 0 else None
    if a == b:
        return 1
    if a == 0:
        return 0
    divisor = _terms(b)
    quotient: Size = 0
    rest: Size = a
    lead_m, lead_c = divisor[-1]
    for _ in range(len(_terms(a)) + 4):
        if rest == 0:
            return quotient
        m, c = _terms(rest)[-1]
        left = _monomial_div(m, lead_m)
        if left is None or lead_c == 0 or c % lead_c:
            return None
        step = _poly([(left, c // lead_c)])
        quotient = quotient + step
        rest = rest - step * b
    return None


def _monomial_div(a: Monomial, b: Monomial) -> Monomial | None:
    left = list(a)
    for atom in b:
        if atom not in left:
            return None
        left.remove(atom)
    return tuple(left)


@dataclass(frozen=True)
class SizeFacts:
    """What is known of the symbols: enough to compare sizes for every value the symbols may take."""

    lo: Mapping[str, int]
    hint: Mapping[str, int]
    hi: Mapping[str, int] = field(default_factory=dict)

    @staticmethod
    def of(symbols: Iterable[Symbol]) -> SizeFacts:
        """Facts from a subgraph's symbols."""
        symbols = tuple(symbols)
        most = {s.name: s.hi for s in symbols if s.hi is not None}
        return SizeFacts({s.name: s.lo for s in symbols}, {s.name: s.hint for s in symbols}, most)

    def value(self, size: Size) -> int:
        """The size when the graph was traced."""
        if isinstance(size, int):
            return size
        total = 0
        for monomial, c in size.terms:
            for atom in monomial:
                c *= self.hint[atom] if atom in self.hint else _evaluate(atom, self.hint)
            total += c
        return total

    def nonnegative(self, size: Size) -> bool:
        """Whether it is provably >= 0 for every value of the symbols."""
        if isinstance(size, int):
            return size >= 0
        shifted: Size = 0  # every atom becomes its lower bound plus a fresh non-negative amount
        for monomial, c in size.terms:
            term: Size = c
            for atom in monomial:
                term = term * _poly([((atom,), 1), ((), max(0, self.lo.get(atom, 0)))])
            shifted = shifted + term
        return all(c >= 0 for _, c in _terms(shifted))

    def most(self, size: Size) -> int | None:
        """The largest it can be, when that is known."""
        if isinstance(size, int):
            return size
        total = 0
        for monomial, c in size.terms:
            if c < 0 or any(atom not in self.hi for atom in monomial):
                return None
            for atom in monomial:
                c *= self.hi[atom]
            total += c
        return total

    def at_most(self, a: Size, b: Size) -> bool:
        """Whether a <= b provably."""
        return self.nonnegative(b - a)


def parse_dim(dim: Dim) -> Size:
    """A contract dim (an int, or an expression's text) as a size."""
    return dim if isinstance(dim, int) else _parse_text(dim)


@cache
def _parse_text(text: str) -> Size:
    return _from_ast(ast.parse(text, mode="eval").body)


def _from_ast(node: ast.expr) -> Size:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.Name):
        return Poly((((node.id,), 1),))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_from_ast(node.operand)
    if isinstance(node, ast.BinOp):
        a, b = _from_ast(node.left), _from_ast(node.right)
        if isinstance(node.op, ast.Add):
            return a + b
        if isinstance(node.op, ast.Sub):
            return a - b
        if isinstance(node.op, ast.Mult):
            return a * b
        if isinstance(node.op, ast.FloorDiv):
            return floor_div(a, b)
        if isinstance(node.op, ast.Mod) and isinstance(a, int) and isinstance(b, int):
            return a % b
    return Poly((((f"({ast.unparse(node)})",), 1),))


def floor_div(a: Size, b: Size) -> Size:
    """a // b: exact when it can be, an opaque atom otherwise."""
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    exact = exact_div(a, b)
    return exact if exact is not None else Poly((((f"(({a}) // ({b}))",), 1),))


def minimum(a: Size, b: Size) -> Size:
    """min(a, b), as an opaque atom when it is not an int."""
    if isinstance(a, int) and isinstance(b, int):
        return min(a, b)
    return a if a == b else Poly((((f"min({a}, {b})",), 1),))


def to_dim(size: Size) -> Dim:
    """The contract's form of a size."""
    return size if isinstance(size, int) else str(size)


@cache
def _compiled(text: str) -> object:
    return compile(text, "<dim>", "eval")


def _evaluate(text: str, values: Mapping[str, int]) -> int:
    return int(eval(_compiled(text), {"__builtins__": {}, "min": min, "max": max}, dict(values)))  # type: ignore[arg-type]
