"""Which inputs an output may overwrite where lanes are taken one after the other."""

from __future__ import annotations

import pytest

from akg_dynamo.agents.sketch import parse
from akg_dynamo.agents.sketch.overwrite import overwritable

ELEMENTWISE = """sketch s {
  symbols: M, N
  tensors: x[M, N]: f32 in, z[M, N]: f32 in, b[N]: f32 in, c[M]: f32 in, y[M, N]: f32 out
  constexpr: BN = 64
  @llm_hint("parallel")
  for i in range(0, M):
    c1 = load(c[i])
    for j in range(0, N, BN):
      v = load(x[i, j:j+BN]) + load(b[j:j+BN]) * c1
      store(maximum(v, v * load(z[i, j:j+BN])) -> y[i, j:j+BN])
}"""


def pairs(text: str) -> list[str]:
    """The inputs that y may overwrite."""
    found = sorted(overwritable(parse(text), lane_by_lane=True))
    assert all(output == "y" for output, _ in found)
    return [source for _, source in found]


def test_elementwise() -> None:
    assert pairs(ELEMENTWISE) == ["x", "z"]


def test_the_whole_row_as_one_axis() -> None:
    text = ELEMENTWISE.replace("for j in range(0, N, BN):", "axis j = range(0, N, BN)").replace("      ", "    ")
    assert pairs(text) == ["x", "z"]


@pytest.mark.parametrize(
    ("changes", "left"),
    [
        ({"x[M, N]: f32 in": "x[N, M]: f32 in", "load(x[i, j:j+BN])": "load(x[j:j+BN, i])"}, ["z"]),
        ({"x[M, N]: f32 in": "x[M, N]: f32 in strides(1, M)"}, ["z"]),
        ({"x[M, N]: f32": "x[M, N]: i32", "load(x[i, j:j+BN])": "cast(load(x[i, j:j+BN]), f32)"}, ["z"]),
        ({"load(z[i, j:j+BN])": "load(z[i, j+1:j+1+BN])"}, ["x"]),
        ({"load(z[i, j:j+BN])": "(load(z[i, j:j+BN]) + load(z[i, 0]))"}, ["x"]),
        ({"load(z[i, j:j+BN])": "load(z[g, j:j+BN])", "      v =": "      g = lanes(j)\n      v ="}, ["x"]),
        ({"c1 = load(c[i])": "c1 = load(z[i, 0])"}, ["x"]),
        ({"-> y[i, j:j+BN])": "-> y[i, j:j+BN])\n      store(v -> y[i, j:j+BN])"}, []),
        ({"c1 = load(c[i])": "c1 = load(c[i])\n    for r in range(0, N):\n      c1 = c1 + load(x[i, r])"}, []),
        ({"@llm_hint": "for r in range(0, 2):\n   @llm_hint", "\n  for i": "\n   for i", "\n    ": "\n     "}, []),
        ({"load(b[j:j+BN])": "reduce_max(load(x[i, j:j+BN]), j)"}, []),
        ({"load(b[j:j+BN])": "scan_sum(load(x[i, j:j+BN]), j)"}, []),
    ],
)
def test_what_takes_a_pair_away(changes: dict[str, str], left: list[str]) -> None:
    text = ELEMENTWISE
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    assert pairs(text) == left


def test_what_a_loop_carries_without_alloc() -> None:
    """The second load of x[i] may be made after the store: the value is needed by the next iteration."""
    text = """sketch s {
  symbols: N
  tensors: x[N]: f32 in, y[N]: f32 out
  before = f32(0.0)
  for i in range(0, N):
    v = load(x[i])
    store(v + before -> y[i])
    before = v
}"""
    assert pairs(text) == []
    assert pairs(text.replace("    before = v\n", "")) == ["x"]


def test_a_report_comes_after_the_stores() -> None:
    text = """sketch s {
  symbols: M, N
  tensors: x[N]: f32 in, at[N]: i64 in, t[M]: f32 in, y[N]: f32 out
  for i in range(0, N):
    p = checked(load(at[i]), index(M))
    store(load(t[p]) + load(x[i]) -> y[i])
}"""
    assert pairs(text) == []
    assert pairs(text.replace("checked(load(at[i]), index(M))", "load(at[i])")) == ["x"]
