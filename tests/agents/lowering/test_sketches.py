"""Reference programs, random well-formed sketches and hard cases: the kernel gives the interpreter's values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from lowered import arrays_for, compare
from random_sketch import random_sketch
from sketch_programs import program

from akg_dynamo.agents.sketch import parse
from akg_dynamo.agents.sketch.ast import DType
from akg_dynamo.agents.sketch.numerics import numpy_dtype

FLOATS = [DType.F32, DType.F64, DType.F16, DType.BF16]
SIZES: dict[str, list[dict[str, int]]] = {
    "matmul_bias_gelu": [{"M": 1, "N": 1, "K": 1}, {"M": 16, "N": 32, "K": 32}, {"M": 37, "N": 45, "K": 50}],
    "attention": [
        {"H": 1, "T": 1, "S": 1, "D": 1}, {"H": 2, "T": 13, "S": 37, "D": 24}, {"H": 1, "T": 8, "S": 16, "D": 128},
    ],
    "cumsum": [{"M": 1, "N": 1}, {"M": 7, "N": 150}, {"M": 4, "N": 64}],
    "embedding": [{"V": 1, "D": 1, "N": 1}, {"V": 20, "D": 100, "N": 19}],
}  # fmt: skip


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: d.value)
@pytest.mark.parametrize("name", SIZES)
def test_reference_programs(name: str, dtype: DType) -> None:
    rng = np.random.default_rng(3)
    sketch = program(name, dtype)
    for symbols in SIZES[name]:
        given: dict[str, Any] = {}
        if name == "embedding":
            given["indices"] = rng.integers(-symbols["V"], symbols["V"], symbols["N"])
        if name == "attention":
            given["scale"] = np.asarray(0.3, numpy_dtype(dtype))
        compare(sketch, arrays_for(sketch, symbols, rng, **given), symbols)


@pytest.mark.parametrize("batch", range(6))
def test_random_sketches(batch: int) -> None:
    for seed in range(batch * 10, batch * 10 + 10):
        sketch, tensors, symbols = random_sketch(np.random.default_rng(seed))
        compare(sketch, tensors, symbols)


HARD = {
    "transposed, both ways": """
sketch turned {
  symbols: M, N
  tensors: x[N, M]: DT in, c[M, N]: DT in, y[M, N]: DT out, z[N, M]: DT out
  for i in range(0, M, 32):
    for j in range(0, N, 64):
      t = load(x[j:j+64, i:i+32])
      store(t -> y[i:i+32, j:j+64])
      store(maximum(t, load(c[i:i+32, j:j+64])) -> z[j:j+64, i:i+32])
}""",
    "column sums and arg-extremes along either axis": """
sketch columns {
  symbols: M, N
  tensors: x[M, N]: DT in, s[N]: DT out, a[N]: i64 out, b[M]: i64 out, m[M]: DT out
  for j in range(0, N, 64):
    axis i = range(0, M, 256)
    t = load(x[i:i+256, j:j+64])
    store(reduce_max(t, i) -> s[j:j+64])
    store(reduce_argmax(t, i) -> a[j:j+64])
  for i in range(0, M, 8):
    axis j = range(0, N, 256)
    t = load(x[i:i+8, j:j+256])
    store(reduce_argmin(t, j) -> b[i:i+8])
    store(reduce_min(t, j) -> m[i:i+8])
}""",
    "scans along either axis": """
sketch scans {
  symbols: M, N
  tensors: x[M, N]: DT in, y[M, N]: DT out, z[M, N]: DT out
  for j in range(0, N, 64):
    axis i = range(0, M, 256)
    store(scan_max(load(x[i:i+256, j:j+64]), i) -> y[i:i+256, j:j+64])
  for i in range(0, M, 8):
    axis j = range(0, N, 256)
    store(scan_min(load(x[i:i+8, j:j+256]), j) -> z[i:i+8, j:j+256])
}""",
    "carried names swap, and old values are read after": """
sketch swap {
  symbols: M, N
  tensors: x[M, N]: DT in, y[N]: DT out, z[N]: DT out
  for j in range(0, N, 16):
    a = load(x[0, j:j+16])
    b = maximum(a, load(x[M-1, j:j+16]))
    for i in range(0, M):
      c = a
      a = b
      b = minimum(c, load(x[i, j:j+16]))
    store(a -> y[j:j+16])
    store(b -> z[j:j+16])
}""",
    "shifted spans out of bounds, masks": """
sketch shifted {
  symbols: M, N
  tensors: x[M, N]: DT in, f[M, N]: bool in, y[M, N]: DT out, z[M, N]: DT out
  for i in range(0, M):
    for j in range(0, N, 32):
      left = load(x[i-1, j-3:j-3+32], other=2)
      right = load(x[i+1, j+5:j+5+32])
      store(maximum(left, right) -> y[i, j:j+32])
      store(load(x[i, j:j+32], other=7, where=load(f[i, j:j+32])) -> z[i, j:j+32])
}""",
    "in place, and a tmp between phases": """
sketch phases {
  symbols: M, N
  tensors: x[M, N]: DT in, s[M]: DT tmp, y[M, N]: DT out
  for i in range(0, M):
    m = alloc([], DT, init=0)
    for j in range(0, N, 32):
      m = maximum(m, reduce_max(load(x[i, j:j+32]), j))
      store(load(x[i, j:j+32]) -> y[i, j:j+32])
    store(m -> s[i])
  for i in range(0, M):
    for j in range(0, N, 32):
      store(minimum(load(y[i, j:j+32]), load(s[M-1-i])) -> y[i, j:j+32])
}""",
}
HARD_DTYPES = [DType.F32, DType.BF16, DType.F64, DType.I64, DType.I32, DType.U8]


@pytest.mark.parametrize("dtype", HARD_DTYPES, ids=lambda d: d.value)
@pytest.mark.parametrize("case", HARD)
def test_hard_cases(case: str, dtype: DType) -> None:
    sketch = parse(HARD[case].strip().replace("DT", dtype.value))
    rng = np.random.default_rng(5)
    for m, n in [(1, 1), (3, 16), (35, 77), (131, 65)]:
        symbols = {"M": m, "N": n}
        tensors = arrays_for(sketch, symbols, rng)
        for name, array in tensors.items():
            if numpy_dtype(dtype).kind in "iu" and array.dtype == numpy_dtype(dtype):
                tensors[name] = rng.integers(0, 100, array.shape).astype(array.dtype)
            elif dtype.is_float and name == "x" and array.size > 40:
                array.reshape(-1)[[3, 17]] = np.nan  # propagates through every extreme, and is the first arg-extreme
                if m == 35:
                    array[1] = np.inf  # nothing is less than what a minimum starts from
                if m == 131:
                    array[:, 2] = -np.inf
        compare(sketch, tensors, symbols)


def test_empty_problems_touch_nothing() -> None:
    sketch = program("cumsum")
    for symbols in ({"M": 0, "N": 5}, {"M": 3, "N": 0}, {"M": 0, "N": 0}):
        compare(sketch, arrays_for(sketch, symbols, np.random.default_rng(0)), symbols)


def test_names_that_mean_something_in_cpp() -> None:
    sketch = parse(
        """sketch while_ {
  symbols: int, n
  tensors: float[int, n]: f32 in, load[int, n]: f32 out
  for u in range(0, int):
    for W in range(0, n, 32):
      maximum = load(float[u, W:W+32])
      store(exp(maximum) -> load[u, W:W+32])
}"""
    )
    symbols = {"int": 3, "n": 50}
    compare(sketch, arrays_for(sketch, symbols, np.random.default_rng(0)), symbols)
