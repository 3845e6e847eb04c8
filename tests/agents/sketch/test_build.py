"""The builder gives the sketch that its text would, and `simplify` changes no value."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akg_dynamo.agents.sketch import check, parse
from akg_dynamo.agents.sketch.ast import DType, IntBin, IntConst, IntExpr, IntVar
from akg_dynamo.agents.sketch.build import Int, SketchBuilder, index, op, reduce, simplify
from akg_dynamo.agents.sketch.intexpr import evaluate, linear
from akg_dynamo.core.errors import SketchError

TEXT = """sketch rows {
  symbols: M, N
  tensors: x[M, N]: f32 in strides(1, M), w[N]: f32 in, rows[M]: i64 in, y[M]: f32 out, p[(N + 7) // 8]: f32 tmp
  constexpr: BN = 8 in [8, 16]

  @llm_hint("parallel")
  for j in range(0, N, BN):
    store(reduce_max(load(w[j:j+BN], where=lanes(j) > 0), j) -> p[j // 8])
  for i in range(0, M):
    row = load(rows[i])
    acc = alloc([], f32, init=0.0, llm_hint=["fastest", "accumulator"])
    for j in range(0, N, BN):
      acc = acc + reduce_sum(load(x[row, j-3:j-3+BN], other=1.0) * 2.0 - 1.0 / load(w[j:j+BN]), j)
    store(acc / cast(index(N), f32) -> y[i])
}
"""


def test_a_built_sketch_is_the_parsed_one() -> None:
    b = SketchBuilder("rows")
    m, n = b.symbols("M", "N")
    x, w = b.tensor("x", [m, n], DType.F32, "in", [1, m]), b.tensor("w", [n], DType.F32, "in")
    rows, y = b.tensor("rows", [m], DType.I64, "in"), b.tensor("y", [m], DType.F32, "out")
    p = b.tensor("p", [n.ceil_div(8)], DType.F32, "tmp")
    bn = b.constexpr("BN", 8, [8, 16])
    with b.tiles("j", 0, n, bn, ["parallel"]) as j:
        b.store(p[j.first // 8], reduce("max", w[j].load(where=j.lanes > 0), j))
    with b.loop("i", 0, m) as i:
        row = b.let("row", rows[i].load())
        acc = b.alloc("acc", [], DType.F32, 0.0)
        with b.tiles("j", 0, n, bn) as j:
            b.let("acc", acc + reduce("sum", x[row, j - 3].load(other=1.0) * 2.0 - 1.0 / w[j].load(), j))
        b.store(y[i], acc / index(n).cast(DType.F32))
    built = b.build()
    check(built)
    assert built == parse(TEXT)


def test_fresh_names_and_named_gathers() -> None:
    b = SketchBuilder("s")
    (n,) = b.symbols("N")
    x = b.tensor("x", [n], DType.F32, "in")
    assert (b.fresh("t"), b.fresh("t"), b.fresh("x"), b.fresh("u")) == ("t", "t2", "x2", "u")
    with pytest.raises(SketchError, match="give the index a name"):
        x[op("neg", index(n))]


def exprs() -> st.SearchStrategy[IntExpr]:
    leaves = st.one_of(st.integers(-4, 4).map(IntConst), st.sampled_from(["a", "b"]).map(IntVar))
    ops = st.sampled_from(["+", "-", "*", "//", "%", "min", "max"])
    return st.recursive(leaves, lambda inner: st.builds(IntBin, ops, inner, inner), max_leaves=8)


def value(expr: IntExpr, values: dict[str, int]) -> int | None:
    try:
        return evaluate(expr, values)
    except ZeroDivisionError:
        return None


@given(exprs(), st.integers(-7, 7), st.integers(1, 7))
def test_simplify_and_linear_keep_the_value(expr: IntExpr, a: int, b: int) -> None:
    values = {"a": a, "b": b}
    want = value(expr, values)
    if want is None:
        return
    assert evaluate(simplify(expr), values) == want
    assert sum(c * evaluate(term, values) for term, c in linear(expr).items()) == want


def test_simplify_drops_what_does_nothing() -> None:
    n = Int(IntVar("n"))
    assert ((n * 1 + 0) // 1 - 0).expr == IntVar("n")
    assert (n * 0).expr == IntConst(0)
    assert (n - n).expr == IntConst(0)
    assert (n + 3 - 5).expr == IntBin("-", IntVar("n"), IntConst(2))
    assert (2 * n * 3).expr == IntBin("*", IntVar("n"), IntConst(6))
    assert (n % 1).expr == IntConst(0)
