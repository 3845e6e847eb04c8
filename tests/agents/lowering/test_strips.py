"""Column reductions: strips of rows, whose values are those of row after row."""

from __future__ import annotations

import numpy as np
import pytest
from lowered import arrays_for, compare

from akg_dynamo.agents.lowering.cpp import lower
from akg_dynamo.agents.sketch import parse

_HEAD = """
sketch columns {
  symbols: M, N
  tensors: x[M, N]: f32 in, w[M]: f32 in, y[N]: f32 out, z[N]: i64 out
  for j in range(0, N, 64):
    m = alloc([j], f32, init=-3.0)
    at = alloc([j], i64, init=0)
"""
_TAIL = """
    store(m -> y[j:j+64])
    store(at -> z[j:j+64])
}"""
BODIES = {
    "a maximum and where": ("""
    for r in range(0, M):
      v = load(x[r, j:j+64]) * load(w[r])
      wins = v > m
      m = where(wins, v, m)
      at = where(wins, index(r), at)""", True),
    "old values of other tiles": ("""
    for r in range(0, M):
      before = m
      m = load(x[r, j:j+64]) + cast(at, f32)
      at = cast(before > 0.0, i64)""", True),
    "rows that take long to prepare": ("""
    for r in range(0, M):
      scale = exp(load(w[r])) / sqrt(abs(load(w[M-1-r])) + 1.0)
      m = m * 0.5 + load(x[r, j:j+64]) * scale""", False),
    "a result per row on the way": ("""
    for r in range(0, M):
      m = maximum(m, load(x[r, j:j+64]))
      store(m -> y[j:j+64])""", False),
    "columns that meet": ("""
    for r in range(0, M):
      m = m * 0.5 + reduce_max(load(x[r, j:j+64]), j)""", False),
}  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
def test_strips(name: str) -> None:
    body, in_strips = BODIES[name]
    sketch = parse(_HEAD.strip() + body + _TAIL)
    assert ("r_block" in lower(sketch).source) is in_strips
    for m, n in ((1, 1), (7, 64), (8, 65), (43, 200)):
        symbols = {"M": m, "N": n}
        compare(sketch, arrays_for(sketch, symbols, np.random.default_rng(m)), symbols)
