"""Sketches with some of their integers known: `with_sizes` bakes the values of symbols into the text."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from akg_dynamo.agents.sketch.ast import IntBin, IntConst, IntExpr, IntVar, Sketch
from akg_dynamo.agents.sketch.intexpr import simplify


def with_sizes(sketch: Sketch, sizes: Mapping[str, int]) -> Sketch:
    """The same sketch for these values of its symbols, which it then no longer has. Constexprs become numbers too.

    (They stay declared, since steps and sizes of axes name them.)
    """
    known = {c.name: c.value for c in sketch.constexprs} | {s: sizes[s] for s in sketch.symbols if s in sizes}
    return dataclasses.replace(
        sketch,
        symbols=tuple(s for s in sketch.symbols if s not in sizes),
        tensors=_put(sketch.tensors, known),
        body=_put(sketch.body, known),
    )


def put(expr: IntExpr, known: Mapping[str, int]) -> IntExpr:
    """An integer expression with values in place of names, folded."""
    if isinstance(expr, IntVar):
        return IntConst(known[expr.name]) if expr.name in known else expr
    if isinstance(expr, IntBin):
        return simplify(IntBin(expr.op, put(expr.a, known), put(expr.b, known)))
    return expr


def _put(node: Any, known: Mapping[str, int]) -> Any:
    if isinstance(node, IntConst | IntVar | IntBin):
        return put(node, known)
    if isinstance(node, tuple):
        return tuple(_put(item, known) for item in node)
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        changes = {f.name: _put(getattr(node, f.name), known) for f in dataclasses.fields(node)}
        return dataclasses.replace(node, **changes)
    return node
