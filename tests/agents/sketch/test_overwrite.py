"""Which outputs may lie in an input's memory: the rules one by one, and random sketches run that way."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from akg_dynamo.agents.sketch import interpret, parse
from akg_dynamo.agents.sketch.ast import Assign, For, Name, Store
from akg_dynamo.agents.sketch.overwrite import overwritable

HEAD = """sketch s {{
  symbols: M, N
  tensors: {tensors}
  constexpr: B = 4, R = 16
{body}
}}"""
XY = "x[M, N]: f32 in, y[M, N]: f32 out"


def pairs(body: str, tensors: str = XY) -> set[tuple[str, str]]:
    return set(overwritable(parse(HEAD.format(tensors=tensors, body=body))))


POINTWISE = """
  @llm_hint("parallel")
  for i in range(0, M):
    @llm_hint("parallel")
    for j in range(0, N, B):
      store(load(x[i, j:j+B]) * 2.0 -> y[i, j:j+B])"""
ROW_HELD = """
  @llm_hint("parallel")
  for i in range(0, M):
    axis k = range(0, N, R)
    t = load(x[i, k:k+R])
    store(t / reduce_sum(t, k) -> y[i, k:k+R])"""
ROW_LOOPED = """
  @llm_hint("parallel")
  for i in range(0, M):
    s = alloc([], f32, init=0.0)
    for j in range(0, N, B):
      s = s + reduce_sum(load(x[i, j:j+B]), j)
    for j1 in range(0, N, B):
      store(load(x[i, j1:j1+B]) / s -> y[i, j1:j1+B])"""
TWO_PHASES = """
  @llm_hint("parallel")
  for j in range(0, N, B):
    s = alloc([j], f32, init=0.0)
    for i in range(0, M):
      s = s + load(x[i, j:j+B])
    store(s -> t[j:j+B])
  @llm_hint("parallel")
  for i1 in range(0, M):
    for j1 in range(0, N, B):
      store(load(x[i1, j1:j1+B]) - load(t[j1:j1+B]) -> y[i1, j1:j1+B])"""
TURNED = """
  @llm_hint("parallel")
  for i in range(0, M):
    for j in range(0, N, B):
      store(load(x[i, j:j+B]) -> y[i, j:j+B])"""
GOOD = {
    "pointwise": (POINTWISE, XY),
    "a row held": (ROW_HELD, XY),
    "a row read twice": (ROW_LOOPED, XY),
    "phases": (TWO_PHASES, XY + ", t[N]: f32 tmp"),
    "the same strides": (TURNED, "x[M, N]: f32 in strides(1, M), y[M, N]: f32 out strides(1, M)"),
}


@pytest.mark.parametrize("case", GOOD)
def test_may_share(case: str) -> None:
    assert pairs(*GOOD[case]) == {("y", "x")}


BAD = {
    "another dtype": (
        POINTWISE.replace("load(x[i, j:j+B]) * 2.0", "cast(load(x[i, j:j+B]), f32)"),
        XY.replace("f32 in", "f16 in"),
    ),
    "other strides": (TURNED, "x[M, N]: f32 in strides(1, M), y[M, N]: f32 out"),
    "broadcast": (TURNED, "x[M, N]: f32 in strides(0, 1), y[M, N]: f32 out"),
    "a neighbour's element": (POINTWISE.replace("load(x[i, j:j+B])", "load(x[i, j+1:j+1+B])"), XY),
    "another row": (POINTWISE.replace("load(x[i,", "load(x[M - 1 - i,"), XY),
    "a row that other programs write": (
        """
  @llm_hint("parallel")
  for i in range(0, M):
    @llm_hint("parallel")
    for j in range(0, N, B):
      axis k = range(0, N, R)
      s = reduce_sum(load(x[i, k:k+R]), k)
      store(load(x[i, j:j+B]) / s -> y[i, j:j+B])""",
        XY,
    ),
    "a row that is written piece by piece": (
        """
  @llm_hint("parallel")
  for i in range(0, M):
    for j in range(0, N, B):
      axis k = range(0, N, R)
      s = reduce_sum(load(x[i, k:k+R]), k)
      store(load(x[i, j:j+B]) / s -> y[i, j:j+B])""",
        XY,
    ),
    "a row of which each program writes a part": (
        """
  @llm_hint("parallel")
  for i in range(0, M):
    @llm_hint("parallel")
    for c in range(0, 2):
      axis k = range(0, N, R)
      axis p = range(c * (N // 2), c * (N // 2) + N // 2, R)
      s = reduce_sum(load(x[i, k:k+R]), k)
      store(load(x[i, p:p+R]) / s -> y[i, p:p+R])""",
        XY,
    ),
    "read again after the store": (
        """
  @llm_hint("parallel")
  for i in range(0, M):
    for j in range(0, N, B):
      store(load(x[i, j:j+B]) * 2.0 -> y[i, j:j+B])
    for j1 in range(0, N, B):
      store(load(x[i, j1:j1+B]) -> z[i, j1:j1+B])""",
        XY + ", z[M, N]: f32 out strides(1, M)",
    ),
    "read in a later phase": (
        POINTWISE + POINTWISE.replace("i ", "a ").replace("[i,", "[a,").replace("y[", "z["),
        XY + ", z[M, N]: f32 out strides(1, M)",
    ),
    "read by threads that nobody waits for": (
        """
  @llm_hint("parallel")
  for i in range(0, M):
    axis k = range(0, N, R)
    t = load(x[i, k:k+R])
    store(reduce_sum(t, k) -> z[i])
    store(load(w[k:k+R]) -> y[i, k:k+R])""",
        XY + ", w[N]: f32 in, z[M]: f32 out",
    ),
    "what a loop has written": (
        """
  for r in range(0, 2):
    @llm_hint("parallel")
    for i in range(0, M):
      for j in range(0, N, B):
        store(load(x[i, j:j+B]) * 2.0 -> y[i, j:j+B])""",
        XY,
    ),
    "gathered": (
        """
  @llm_hint("parallel")
  for i in range(0, M):
    for j in range(0, N, B):
      g = load(p[i])
      store(load(x[g, j:j+B]) -> y[i, j:j+B])""",
        XY + ", p[M]: i64 in",
    ),
    "stored twice": (POINTWISE + POINTWISE.replace("2.0", "3.0"), XY),
}


@pytest.mark.parametrize("case", BAD)
def test_may_not_share(case: str) -> None:
    assert ("y", "x") not in pairs(*BAD[case])


@pytest.mark.parametrize(
    ("body", "warps", "shares"),
    [
        (POINTWISE, 8, True),  # a lane's thread reads what it writes, or gets it from one that has read it
        (ROW_HELD, 8, True),
        (ROW_LOOPED.replace("j in range(0, N, B)", "j in range(0, N, 64)").replace("j:j+B", "j:j+64"), 2, True),
        (ROW_LOOPED.replace("j in range(0, N, B)", "j in range(0, N, 64)").replace("j:j+B", "j:j+64"), 4, False),
        (ROW_LOOPED, 1, True),
        (ROW_LOOPED, 2, False),  # every warp reads the tile for itself
        (POINTWISE.replace("2.0", "load(x[i, 0])"), 1, False),  # a part of the row is another program's
        (TURNED.replace("-> y", "* load(x[i, 0]) -> y"), 1, False),  # the loop has written it
    ],
)
def test_threads_that_do_not_wait(body: str, warps: int, shares: bool) -> None:
    sketch = parse(HEAD.format(tensors=XY, body=body))
    assert (("y", "x") in overwritable(sketch, [warps])) is shares


def test_a_scalar_is_read_by_each_thread_for_itself() -> None:
    body = """
  @llm_hint("parallel")
  for i in range(0, M):
    axis k = range(0, N, R)
    store(load(x[i, k:k+R]) * load(x[i, 0]) -> y[i, k:k+R])"""
    sketch = parse(HEAD.format(tensors=XY, body=body))
    assert overwritable(sketch, [1])
    assert not overwritable(sketch, [2])


def test_one_object_in_two_places_is_two_loads() -> None:
    """Designers share expressions between statements."""
    sketch = parse(HEAD.format(tensors=XY + ", z[M, N]: f32 out strides(1, M)", body=POINTWISE))
    (rows,) = sketch.body
    assert isinstance(rows, For)
    (columns,) = rows.body
    assert isinstance(columns, For)
    (first,) = columns.body
    assert isinstance(first, Store)
    second = Store(first.value, replace(first.ref, name="z"))
    named = Assign("a", first.value)
    held = (named, replace(first, value=Name("a")), replace(second, value=Name("a")))
    for body, shares in (((first, second), False), ((second, first), False), (held, True)):
        whole = replace(sketch, body=(replace(rows, body=(replace(columns, body=body),)),))
        assert (("y", "x") in overwritable(whole)) is shares


def test_what_is_carried_by_a_loop_counts() -> None:
    body = """
  @llm_hint("parallel")
  for i in range(0, M):
    m = alloc([], f32, init=0.0)
    a = alloc([], f32, init=0.0)
    for j in range(0, N, B):
      a = m
      m = m + reduce_sum(load(x[i, j:j+B]), j)
    for j1 in range(0, N, B):
      store(load(x[i, j1:j1+B]) + {} -> y[i, j1:j1+B])"""
    assert pairs(body.format("a")) == {("y", "x")}, "by way of the iteration before"
    assert not pairs(body.format("1.0")), "the loop's reads are waited for by nobody"


@pytest.mark.parametrize("case", GOOD)
@pytest.mark.parametrize("shape", [(3, 8), (5, 7), (1, 16)])
def test_values_in_shared_memory(case: str, shape: tuple[int, int]) -> None:
    """The interpreter with x and y the same array gives what it gives with two."""
    body, tensors = GOOD[case]
    sketch = parse(HEAD.format(tensors=tensors, body=body))
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    if "strides(1, M)" in tensors:
        x = np.asfortranarray(x)
    apart = {"x": x.copy(order="K"), "y": np.zeros_like(x)}
    shared = x.copy(order="K")
    interpret(sketch, apart, {"M": shape[0], "N": shape[1]})
    interpret(sketch, {"x": shared, "y": shared}, {"M": shape[0], "N": shape[1]})
    np.testing.assert_array_equal(shared, apart["y"])
