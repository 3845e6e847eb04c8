"""When a parallel loop wakes the other threads: the estimate of its work that generated code compares."""

from __future__ import annotations

import re

import pytest

from akg_dynamo.agents.lowering.cpp import lower
from akg_dynamo.agents.sketch.parse import parse

_SUM_IN_CHUNKS = """
sketch chunks {
  symbols: n, length, count
  tensors: x[n]: f32 in, y[count]: f64 out
  constexpr: BN = 1024
  @llm_hint("parallel")
  for i in range(0, count):
    s = alloc([], f64, init=0.0)
    for k in range(min(i * length, n), min((i + 1) * length, n), BN):
      s = s + cast(reduce_sum(load(x[k:k+BN]), k), f64)
    store(s -> y[i])
}
"""
_TRIANGLE = """
sketch triangle {
  symbols: n
  tensors: x[n, n]: f32 in, y[n]: f32 out
  constexpr: BN = 1024
  @llm_hint("parallel")
  for i in range(0, n):
    s = alloc([], f32, init=0.0)
    for k in range(0, i + 1, BN):
      s = s + reduce_sum(load(x[i, k:k+BN]), k)
    store(s -> y[i])
}
"""


def wakes_the_team(source: str, **symbols: int) -> bool:
    """What the generated condition says for these sizes."""
    condition = re.search(r"if \((.* > \d+)\) \{\n *#pragma omp", source)
    assert condition is not None
    python = condition[1].replace("min2<int64_t>", "min").replace("max2<int64_t>", "max")
    return bool(eval(python, {"min": min, "max": max}, {f"{k}_": v for k, v in symbols.items()} | symbols))


@pytest.mark.parametrize(("length", "wakes"), [(16, False), (16_384, True)])
def test_chunks_count_with_their_length(length: int, wakes: bool) -> None:
    source = lower(parse(_SUM_IN_CHUNKS)).source
    assert wakes_the_team(source, n=64 * length, length=length, count=64) is wakes


@pytest.mark.parametrize(("n", "wakes"), [(16, False), (4096, True)])
def test_a_triangle_counts_with_its_longest_row(n: int, wakes: bool) -> None:
    assert wakes_the_team(lower(parse(_TRIANGLE)).source, n=n) is wakes
