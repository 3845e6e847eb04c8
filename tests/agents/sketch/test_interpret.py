"""What only a run finds: races, stores out of bounds, elements nobody wrote; and arrays that are not as declared."""

from __future__ import annotations

import numpy as np
import pytest

from akg_dynamo.agents.sketch import interpret, parse
from akg_dynamo.agents.sketch.ast import DType, IntConst, IntVar, TensorDecl
from akg_dynamo.agents.sketch.interpret import as_declared
from akg_dynamo.core.errors import SketchError

HEAD = """sketch s {
  symbols: N
  tensors: x[N]: f32 in, at[N]: i64 in, y[N]: f32 out, tmp[N]: f32 tmp
  constexpr: BN = 4
"""


def run(body: str, n: int = 10, at: list[int] | None = None, seed: int = 0) -> np.ndarray:
    y = np.full(n, -1, np.float32)
    arrays = {"x": np.arange(n, dtype=np.float32), "at": np.array(at or range(n), dtype=np.int64), "y": y}
    interpret(parse(HEAD + body + "}\n"), arrays, {"N": n}, rng=np.random.default_rng(seed))
    return y


def test_a_checked_index() -> None:
    body = "  for i in range(0, N, BN):\n    p = checked(load(at[i:i+BN]), index(N))\n"
    body += "    store(load(x[p]) -> y[i:i+BN])\n"
    at = [9, 0, 8, 1, 7, 2, 6, 3, 5, 4]
    assert run(body, at=at).tolist() == at
    for wrong in (10, -1):
        with pytest.raises(SketchError, match=f"^line 6: the index {wrong} is out of range"):
            run(body, at=[*at[:9], wrong])
    with pytest.raises(SketchError, match="'checked' does not take f32"):
        run("  p = checked(load(x[0]), 3)\n")


PARALLEL = '  @llm_hint("parallel")\n  for i in range(0, N, BN):\n'
EACH = '  @llm_hint("parallel")\n  for i in range(0, N):\n'
WHOLE = PARALLEL + "    store(load(x[i:i+BN]) -> y[i:i+BN])\n"


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    ("body", "line", "reason"),
    [
        # overlapping stores, whichever runs last
        (EACH + "    store(f32(1) -> y[i // 2])\n", 7, "a race: .* stores to the same"),
        # a scatter in which two iterations hit one element
        (EACH + "    p = load(at[i // 2])\n    store(f32(1) -> y[p])\n", 8, "a race"),
        # reads of what a neighbour stores
        (WHOLE + '  @llm_hint("parallel")\n  for i in range(1, N):\n    store(load(y[i-1]) -> y[i])\n', 10, "a race"),
        (EACH + "    store(f32(1) -> tmp[i])\n    store(load(tmp[N-1-i]) -> y[i])\n", 8, "race"),
        # the outer loop races though the inner one does not
        (
            '  @llm_hint("parallel")\n  for i in range(0, 2):\n    @llm_hint("parallel")\n    for j in range(0, N):\n'
            "      store(f32(1) -> y[max(j, i)])\n", 9, "a race: another iteration of '(i|j)'",
        ),
    ],
)  # fmt: skip
def test_a_race_is_found_in_every_order(body: str, line: int, reason: str, seed: int) -> None:
    with pytest.raises(SketchError, match=rf"^line {line}: .*{reason}"):
        run(body, seed=seed)


def test_what_is_no_race() -> None:
    """An iteration may read what it stored itself, and what an earlier phase stored anywhere."""
    run(PARALLEL + "    store(load(x[i:i+BN]) -> tmp[i:i+BN])\n    store(load(tmp[i:i+BN]) * 2.0 -> y[i:i+BN])\n")
    got = run(
        PARALLEL
        + "    store(load(x[i:i+BN]) -> tmp[i:i+BN])\n"
        + '  @llm_hint("parallel")\n  for i in range(0, N):\n    store(load(tmp[N-1-i]) -> y[i])\n'
    )
    assert got.tolist() == list(range(9, -1, -1))


@pytest.mark.parametrize(
    ("body", "line", "reason"),
    [
        (
            "  for i in range(0, N, BN):\n    store(f32(1) -> y[i+1:i+1+BN])\n",
            6,
            r"a store outside 'y' \(10,\): at \(10,\)",
        ),
        ("  for i in range(-1, N):\n    store(f32(1) -> y[i])\n", 6, r"a store outside 'y' \(10,\): at \(-1,\)"),
        ("  axis i = range(0, N, 8)\n", 5, "has 10 lanes, more than its size 8"),
        ("  for i in range(0, N - 1):\n    store(f32(1) -> y[i])\n", 3, "1 elements of 'y' were never stored"),
        (
            "  for i in range(0, 2):\n    store(f32(1) -> tmp[i])\n  t = load(tmp[2])\n",
            7,
            "read that nothing has stored",
        ),
        ("  for i in range(0, N // (N - 10)):\n    t = f32(1)\n", 5, "division by zero"),
        ("  t = index(N)\n  u = t % (t - t)\n", 6, "integer division by zero"),
        ("  axis i = range(0, N - 10, 8)\n  t = reduce_argmax(load(x[i:i+8]), i)\n", 6, "which has no lanes"),
        (
            "  for i in range(0, N, BN):\n    p = load(at[i:i+BN]) * 0\n    store(f32(1) -> y[p])\n",
            7,
            "two lanes store to the same",
        ),
    ],
)
def test_what_a_run_finds(body: str, line: int, reason: str) -> None:
    with pytest.raises(SketchError, match=rf"^line {line}: .*{reason}"):
        run(body)


def test_loads_outside_and_masked_lanes_read_other() -> None:
    got = run(
        "  for i in range(0, N, BN):\n"
        "    m = lanes(i) % 2 == 0\n"
        "    store(load(x[i+8:i+8+BN], other=7) + load(x[i:i+BN], other=-1, where=m) -> y[i:i+BN])\n"
    )
    assert got.tolist() == [8, 8] + [7 + (i if i % 2 == 0 else -1) for i in range(2, 10)]


def test_masked_lanes_touch_nothing() -> None:
    """A masked read of an element that was never stored is no read."""
    run(WHOLE + "  store(f32(0) -> tmp[0])\n  axis i = range(0, N, 16)\n  t = load(tmp[i:i+16], where=lanes(i) < 1)\n")


def test_sizes_of_zero() -> None:
    assert run(WHOLE, n=0).shape == (0,)


@pytest.mark.parametrize(
    ("arrays", "symbols", "reason"),
    [
        ({}, {"N": 2}, "no array for tensor 'x'"),
        ({"x": np.zeros(2, np.float32)}, {}, "symbol 'N' has no value"),
        ({"x": np.zeros(3, np.float32)}, {"N": 2}, r"'x' is declared float32 \(2,\); the array is float32 \(3,\)"),
        ({"x": np.zeros(2)}, {"N": 2}, "the array is float64"),
        ({"x": np.zeros(2, np.float32)}, {"N": -2}, r"has the shape \(-2,\)"),
    ],
)
def test_arrays_must_be_as_declared(arrays: dict[str, np.ndarray], symbols: dict[str, int], reason: str) -> None:
    sketch = parse("sketch s {\n  symbols: N\n  tensors: x[N]: f32 in\n  t = f32(1)\n}")
    with pytest.raises(SketchError, match=reason):
        interpret(sketch, arrays, symbols)


def test_written_strides_must_not_overlap() -> None:
    sketch = parse("sketch s {\n  symbols: N\n  tensors: y[N, N]: f32 out strides(1, 1)\n  t = f32(1)\n}")
    with pytest.raises(SketchError, match=r"^line 3: .*share storage"):
        interpret(sketch, {"y": np.zeros((3, 3), np.float32)}, {"N": 3})


def test_a_buffer_as_declared() -> None:
    n = IntVar("N")
    decl = TensorDecl("x", (IntConst(2), n), DType.F32, "in", (IntConst(1), IntConst(2)))
    storage = np.arange(10, dtype=np.float32)
    assert as_declared(storage, decl, {"N": 3}, offset=1).tolist() == [[1, 3, 5], [2, 4, 6]]
    with pytest.raises(SketchError, match="reaches elements 1 to 10 of a buffer of 10"):
        as_declared(storage, decl, {"N": 5}, offset=1)


def test_tf32_rounds_what_it_multiplies() -> None:
    text = """sketch s {{
      tensors: x[1]: f32 in, y[]: f32 out
      axis k = range(0, 1, 1)
      t = load(x[k:k+1])
      store(dot(t, t, k{}) -> y[])
    }}"""
    x = np.array([1 + 2.0**-11 + 2.0**-20], np.float32)
    got = {}
    for precision in ("", ', precision="tf32"'):
        y = np.zeros((), np.float32)
        interpret(parse(text.format(precision)), {"x": x, "y": y}, {})
        got[precision] = float(y)
    assert got[""] == float(x[0] * x[0])
    assert got[', precision="tf32"'] == (1 + 2.0**-10) ** 2 - 2.0**-20 + 2.0**-20
