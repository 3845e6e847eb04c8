"""Reductions: sums, means, extremes, variances and norms over any dims."""

from __future__ import annotations

from collections.abc import Sequence

from akg_dynamo.agents.designer.calls import Call, NoRule, Result, rule
from akg_dynamo.agents.designer.values import INF, V, exp, fn, log, maximum, number, sqrt, where
from akg_dynamo.agents.sketch.ast import DType


def _over(c: Call, x: V, name: str = "dim") -> list[int]:
    return c.dims(len(x.shape), name)


def _final(c: Call, x: V, k: int = 0) -> V:
    """The reduced value in the result's dtype and shape (which knows of keepdim)."""
    return x.to(c.dtype_of(k)).reshape(c.shape_of(k))


@rule("sum", "nansum", "prod", "mean")
def _sum(c: Call) -> Result:
    x = c.value("self")
    dims = _over(c, x)
    if c.name == "nansum" and x.is_float:
        x = where(x.test("isnan"), 0.0, x)
    if c.name == "mean":
        return _final(c, x.mean(dims))
    if x.dtype is DType.BOOL:
        op = "any" if c.name != "prod" else "all"
        return _final(c, x.reduce(op, dims))
    return _final(c, x.reduce("prod", dims) if c.name == "prod" else x.sum(dims))


@rule("mm", "bmm")
def _thin_product(c: Call) -> Result:
    """A product with one column, or one row: each row (or column) of the other factor times that, added up."""
    left, right = c.value("self"), c.value("mat2")
    rank = len(c.shape)
    turned = [*range(rank - 2), rank - 1, rank - 2]
    if c.shape[-1] == 1:
        return (left * right.permute(turned)).sum([rank - 1], keep=True)
    if c.shape[-2] == 1:
        return (left.permute(turned) * right).sum([rank - 2], keep=True)
    raise NoRule(f"{c.node.target} of more than one row and column")


@rule("any", "all")
def _any(c: Call) -> Result:
    x = c.raw("self").to(DType.BOOL)
    return _final(c, x.reduce(c.name, _over(c, x)))


@rule("count_nonzero")
def _count(c: Call) -> Result:
    x = c.raw("self").to(DType.BOOL).to(DType.I64)
    return _final(c, x.sum(_over(c, x)))


@rule("amax", "amin")
def _amax(c: Call) -> Result:
    x = c.raw("self")
    return _final(c, x.reduce(c.name[1:], _over(c, x)))


@rule("max", "min")
def _max(c: Call) -> Result:
    x = c.raw("self")
    if "other" in c.args:
        return c.value("self").op(f"{c.name}imum", c.value("other")).expand(c.shape)
    dims = _over(c, x)
    best = _final(c, x.reduce(c.name, dims))
    if len(c.specs) == 1:
        return best
    return best, _final(c, _ordered(x).reduce(f"arg{c.name}", dims), 1)


@rule("aminmax")
def _aminmax(c: Call) -> Result:
    x = c.raw("self")
    dims = _over(c, x)
    return _final(c, x.reduce("min", dims)), _final(c, x.reduce("max", dims), 1)


@rule("argmax", "argmin")
def _arg(c: Call) -> Result:
    x = _ordered(c.raw("self"))
    return _final(c, x.reduce(c.name, _over(c, x)))


def _ordered(x: V) -> V:
    return x.to(DType.I32) if x.dtype is DType.BOOL else x


def variance(x: V, dims: Sequence[int], correction: float = 0.0) -> tuple[V, V]:
    """(variance, mean) with the dims kept: two passes, so that a large mean costs no accuracy."""
    mean = x.mean(dims, keep=True)
    difference = x - mean
    count = x.count(dims)
    if correction:
        count = maximum(count - float(correction), 0.0)
    return (difference * difference).share(dims, count, keep=True), mean


@rule("var", "std", "var_mean", "std_mean")
def _var(c: Call) -> Result:
    x = c.value("self")
    if "correction" in c.args:
        correction = 1 if c["correction"] is None else c["correction"]
    else:
        correction = 1 if c.get("unbiased", True) else 0
    spread, mean = variance(x, _over(c, x), correction)
    if c.name.startswith("std"):
        spread = sqrt(spread)
    return (_final(c, spread), _final(c, mean, 1)) if len(c.specs) == 2 else _final(c, spread)


@rule("logsumexp")
def _logsumexp(c: Call) -> Result:
    x = c.value("self")
    dims = _over(c, x)
    most = x.reduce("max", dims, keep=True)
    safe = where(fn("abs", most).eq(INF), 0.0, most)
    return _final(c, log(exp(x - safe).sum(dims, keep=True)) + safe)


@rule("linalg_vector_norm", "norm")
def _norm(c: Call) -> Result:
    x = c.value("self")
    order = c.get("ord" if "ord" in c.args else "p", 2)
    dims = _over(c, x)
    if not isinstance(order, int | float):
        raise NoRule("a norm of symbolic order")
    size = fn("abs", x)
    if order == INF:
        return _final(c, size.reduce("max", dims))
    if order == -INF:
        return _final(c, size.reduce("min", dims))
    if order == 0:
        return _final(c, x.ne(0).to(x.dtype).sum(dims))
    if order == 1:
        return _final(c, size.sum(dims))
    if order == 2:
        return _final(c, sqrt((x * x).sum(dims)))
    powers = size.op("pow", number(float(order), x.dtype)).sum(dims)
    return _final(c, powers.op("pow", number(1.0 / float(order), x.dtype)))
