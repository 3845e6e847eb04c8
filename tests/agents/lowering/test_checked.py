"""Checked indices: the same values, and a report when one was out of range, whichever lane or thread has it."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from lowered import build

from akg_dynamo.agents.lowering.cpp import lower
from akg_dynamo.agents.sketch import parse

_LANES = """
sketch gather_lanes {
  symbols: M, N
  tensors: x[M]: f32 in, at[N]: i64 in, y[N]: f32 out
  constexpr: BN = 256

  @llm_hint("parallel", "coreidx")
  for i in range(0, N, BN):
    p = checked(load(at[i:i+BN]), index(M))
    store(load(x[p]) * 2.0 -> y[i:i+BN])
}
"""
_ROWS = """
sketch gather_rows {
  symbols: M, N
  tensors: x[M]: f32 in, at[N]: i64 in, y[N]: f32 out

  @llm_hint("parallel", "coreidx")
  for i in range(0, N):
    p = checked(load(at[i]), index(M))
    store(load(x[p]) * 2.0 -> y[i])
}
"""


def launch(text: str, x: np.ndarray, at: np.ndarray) -> tuple[bool, np.ndarray]:
    """Whether the kernel reports, and what it stored."""
    kernel = lower(parse(text))
    assert kernel.reports
    entry, y = build(kernel), np.zeros(len(at), np.float32)
    entry.restype = ctypes.c_int
    pointers = [ctypes.c_void_p(a.ctypes.data) for a in (x, at, y)]
    return entry(*pointers, ctypes.c_int64(len(x)), ctypes.c_int64(len(at))) != 0, y


@pytest.mark.parametrize("text", [_LANES, _ROWS], ids=["lanes", "rows"])
@pytest.mark.parametrize("n", [1, 7, 16, 300, 200_003])  # the last with several threads
def test_it_reports_any_wrong_index(text: str, n: int) -> None:
    rng = np.random.default_rng(n)
    x = rng.standard_normal(50).astype(np.float32)
    at = rng.integers(0, 50, n)
    reported, y = launch(text, x, at)
    assert not reported
    np.testing.assert_array_equal(y, x[at] * 2)
    for place in {0, n // 2, n - 1}:
        for wrong in (50, -1, 2**40, -(2**63)):
            bad = at.copy()
            bad[place] = wrong
            assert launch(text, x, bad)[0]


def test_without_checked_indices_there_is_no_report() -> None:
    kernel = lower(parse(_LANES.replace("checked(load(at[i:i+BN]), index(M))", "load(at[i:i+BN])")))
    assert not kernel.reports
    assert 'extern "C" void gather_lanes' in kernel.source
