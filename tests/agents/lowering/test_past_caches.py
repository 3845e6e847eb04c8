"""Stores past the caches: which stores they are, and that they write what the others write."""

from __future__ import annotations

import numpy as np
import pytest
from lowered import execute

from akg_dynamo.agents.lowering.cpp import lower
from akg_dynamo.agents.sketch import parse
from akg_dynamo.agents.sketch.ast import DType
from akg_dynamo.agents.sketch.numerics import numpy_dtype

_ENOUGH = 24 << 20  # bytes of all tensors together


def _copied(dtype: str, tile: int, *, more: str = "") -> str:
    return f"""sketch copied {{
  symbols: M, N
  tensors: x[M, N]: {dtype} in, y[M, N]: {dtype} out
  constexpr: BN = {tile}
  @llm_hint("parallel", "coreidx")
  for i in range(0, M):
    for j in range(0, N, BN):
      store(load(x[i, j:j+BN]) -> y[i, j:j+BN])
{more}}}"""


@pytest.mark.parametrize("row", [1, 63, 128, 1000, 1024, 1027])
@pytest.mark.parametrize("shift", [0, 1, 16])
@pytest.mark.parametrize("dtype", [DType.F32, DType.F64, DType.BF16, DType.I8], ids=lambda d: d.value)
def test_large_outputs_at_any_alignment(dtype: DType, shift: int, row: int) -> None:
    element = np.dtype(numpy_dtype(dtype))
    rows = _ENOUGH // (row * element.itemsize) // 2 + 1
    x = (np.arange(rows * row) % 101).astype(element).reshape(rows, row)
    memory = np.zeros(rows * row + shift + 1, element)
    y = memory[shift:-1].reshape(rows, row)
    execute(parse(_copied(dtype.value, 1024)), {"x": x, "y": y}, {"M": rows, "N": row})
    assert np.array_equal(x, y)
    assert not memory[:shift].any()
    assert memory[-1] == 0


def test_a_large_output_over_its_input() -> None:
    text = _copied("f32", 1024).replace("load(x[i, j:j+BN])", "load(x[i, j:j+BN]) + 1.0")
    rows = _ENOUGH // 4 // 2000 // 2 + 1
    x = np.arange(rows * 2000, dtype=np.float32).reshape(rows, 2000)
    want = x + 1
    execute(parse(text), {"x": x, "y": x}, {"M": rows, "N": 2000})
    assert np.array_equal(x, want)


def test_a_team_settles_before_it_parts() -> None:
    source = lower(parse(_copied("f32", 1024))).source
    loop = source[source.index("#pragma omp parallel") :]
    assert "nowait" in loop
    assert loop.index("settle();") < loop.index("} else {")
    assert source.rstrip().endswith("settle();\n}")


def test_short_runs_stay_in_the_caches() -> None:
    assert "store_past" not in lower(parse(_copied("f32", 64))).source
    assert "store_past" in lower(parse(_copied("f32", 128))).source


def test_what_the_kernel_reads_again_stays_in_the_caches() -> None:
    again = """
  @llm_hint("parallel", "coreidx")
  for k in range(0, M):
    for l in range(0, N, BN):
      store(load(y[k, l:l+BN]) + 1 -> y[k, l:l+BN])
"""
    assert "store_past" not in lower(parse(_copied("f32", 1024, more=again))).source
