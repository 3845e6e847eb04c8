"""Symbolic sizes: where a graph's symbols come from, and how an expression over them is written as a `Dim`.

Nothing here asks a symbolic size for its truth or its value, so no guard is ever added.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeGuard

import sympy  # type: ignore[import-untyped]
import torch
from torch import fx

from akg_dynamo.core.errors import AkgError
from akg_dynamo.core.types import Dim, Symbol

if TYPE_CHECKING:
    from torch.fx.experimental.symbolic_shapes import ShapeEnv


@contextmanager
def no_new_guards(shape_env: ShapeEnv | None) -> Iterator[None]:
    """Inside, whatever would add a guard raises: it would narrow what the graph was captured for, and recompile later.

    torch before 2.13 cannot be told so. There the guards are counted afterwards, which finds the same mistake later.
    """
    if shape_env is None:
        yield
    elif hasattr(shape_env, "error_on_new_guards"):
        with shape_env.error_on_new_guards():
            yield
    else:
        before = len(shape_env.guards)
        yield
        if len(shape_env.guards) > before:
            raise AkgError(f"compiling narrowed the graph: it added the guard {shape_env.guards[-1]}")


class Inexpressible(Exception):
    """An expression with an operation that dims do not have."""


@dataclass(frozen=True)
class SymbolSource:
    """How a running graph gets a symbol's value: from a placeholder, `(value - offset) // scale`.

    dim: which size of a tensor placeholder; None when the placeholder is itself an integer.
    """

    node: fx.Node
    dim: int | None
    scale: int = 1
    offset: int = 0

    def text(self, name: str | None = None) -> str:
        """As Python, with `name` (or the placeholder's own name) for the placeholder."""
        value = name or self.node.name
        if self.dim is not None:
            value = f"{value}.size({self.dim})"
        if self.offset:
            value = f"({value} - {self.offset})"
        return f"{value} // {self.scale}" if self.scale != 1 else value


def expression(size: object) -> sympy.Expr | int:
    """An int, or the sympy expression of a SymInt."""
    if isinstance(size, torch.SymInt):
        expr = size.node.expr
        return int(expr) if expr.is_Integer else expr
    assert isinstance(size, int)
    return int(size)


def has_known_layout(value: object) -> TypeGuard[torch.Tensor]:
    """Whether it is a tensor whose sizes and strides are numbers: comparing others would add a guard."""
    return isinstance(value, torch.Tensor) and all(isinstance(s, int) for s in (*value.shape, *value.stride()))


def hint(size: object) -> int:
    """The size's value when the graph was traced (for costs only: it decides nothing that must hold elsewhere)."""
    if isinstance(size, torch.SymInt):
        if size.node.hint is not None:
            return int(size.node.hint)
        return 64  # an unbacked size: its region is refused elsewhere
    assert isinstance(size, int)
    return size


def numel_hint(shape: torch.Size) -> int:
    """How many elements, when the graph was traced."""
    n = 1
    for s in shape:
        n *= hint(s)
    return n


def symbol_sources(graph: fx.Graph) -> dict[sympy.Symbol, SymbolSource]:
    """For every symbol that the placeholders determine, the simplest way to get its value."""
    sources: dict[sympy.Symbol, SymbolSource] = {}
    derived: dict[sympy.Symbol, SymbolSource] = {}

    def see(node: fx.Node, dim: int | None, size: object) -> None:
        if not isinstance(size, torch.SymInt):
            return
        expr = size.node.expr
        if expr.is_Symbol:
            sources.setdefault(expr, SymbolSource(node, dim))
        elif len(expr.free_symbols) == 1:
            (symbol,) = expr.free_symbols
            if symbol not in derived and expr.is_polynomial(symbol):
                poly = sympy.Poly(expr, symbol)
                if poly.degree() == 1 and poly.LC() > 0 and all(c.is_Integer for c in poly.all_coeffs()):
                    derived[symbol] = SymbolSource(node, dim, int(poly.LC()), int(poly.TC()))

    placeholders = [n for n in graph.nodes if n.op == "placeholder"]
    for node in placeholders:  # an integer costs nothing to read: those first
        see(node, None, node.meta.get("val"))
    for node in placeholders:
        if isinstance(node.meta.get("val"), torch.Tensor):
            for dim, size in enumerate(node.meta["val"].shape):
                see(node, dim, size)
    return {**derived, **sources}


class SymbolNames:
    """Gives a subgraph's symbols their canonical names, in order of first use."""

    def __init__(self) -> None:
        self.names: dict[sympy.Symbol, str] = {}
        self.hints: dict[sympy.Symbol, int] = {}
        self.shape_env: ShapeEnv | None = None

    def dim(self, size: object) -> Dim:
        """A size as a `Dim`."""
        expr = expression(size)
        if isinstance(expr, int):
            return expr
        assert isinstance(size, torch.SymInt)
        self.shape_env = size.node.shape_env
        return self.text(expr)

    def text(self, expr: sympy.Expr) -> str:
        """An expression as text with the canonical names."""
        return _Printer(self).show(expr)

    def name_of(self, symbol: sympy.Symbol) -> str:
        """The canonical name of a symbol, given on first use."""
        if symbol not in self.names:
            self.names[symbol] = f"s{len(self.names)}"
        return self.names[symbol]

    def symbols(self) -> tuple[Symbol, ...]:
        """The symbols named so far, with what the shape environment knows of them."""
        found = []
        for symbol, name in self.names.items():
            assert self.shape_env is not None
            bounds = self.shape_env.bound_sympy(symbol)
            lo = int(bounds.lower) if bounds.lower.is_Integer else 0
            hi = int(bounds.upper) if bounds.upper.is_Integer else None
            # 2**31 elements in one dim is where shape environments stop knowing anything
            hi = None if hi is None or hi >= 2**62 else hi
            value = self.shape_env.backed_var_to_val.get(symbol)
            found.append(Symbol(name, lo, hi, int(value) if value is not None else max(lo, 2)))
        return tuple(found)


_FUNCTIONS = {"FloorDiv": "//", "CleanDiv": "//", "Mod": "%", "PythonMod": "%"}
_EXTREMES = {"Max": "max", "Min": "min"}


class _Printer:
    """Prints with + - * // % min max and parentheses: the grammar of `Dim`."""

    def __init__(self, names: SymbolNames) -> None:
        self.names = names

    def show(self, expr: sympy.Expr) -> str:
        kind = type(expr).__name__
        if expr.is_Integer:
            return str(int(expr))
        if expr.is_Symbol:
            return self.names.name_of(expr)
        if expr.is_Add:
            text = self.show(expr.args[0])
            for term in expr.args[1:]:
                positive = -term if term.could_extract_minus_sign() else None
                text += f" + {self.show(term)}" if positive is None else f" - {self.factor(positive)}"
            return text
        if expr.is_Mul:
            return "*".join(self.factor(a) for a in expr.args)
        if expr.is_Pow and expr.exp.is_Integer and expr.exp > 0:
            return "*".join([self.factor(expr.base)] * int(expr.exp))
        if kind in _FUNCTIONS:
            return f" {_FUNCTIONS[kind]} ".join(self.factor(a) for a in expr.args)
        if kind == "ModularIndexing":
            base, divisor, modulus = expr.args
            return f"({self.factor(base)} // {self.factor(divisor)}) % {self.factor(modulus)}"
        if kind in _EXTREMES:
            return self.extreme(_EXTREMES[kind], [self.show(a) for a in expr.args])
        raise Inexpressible(str(expr))

    def factor(self, expr: sympy.Expr) -> str:
        text = self.show(expr)
        return text if expr.is_Symbol or (expr.is_Integer and expr >= 0) else f"({text})"

    @staticmethod
    def extreme(function: str, args: list[str]) -> str:
        text = args[0]
        for a in args[1:]:
            text = f"{function}({text}, {a})"
        return text
