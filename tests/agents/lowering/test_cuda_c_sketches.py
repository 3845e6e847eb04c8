"""Reference programs, random well-formed sketches and hard cases: CUDA C, run on the CPU, gives the right values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cuda_lowered import compare, execute_kernel
from lowered import arrays_for
from random_sketch import random_sketch
from sketch_programs import program
from test_sketches import FLOATS, HARD, HARD_DTYPES, SIZES

from akg_dynamo.agents.lowering.cuda_c import CudaKernel, lower
from akg_dynamo.agents.sketch import interpret, parse
from akg_dynamo.agents.sketch.ast import DType
from akg_dynamo.agents.sketch.numerics import numpy_dtype


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
        compare(sketch, arrays_for(sketch, symbols, rng, **given), symbols, static=False)


@pytest.mark.parametrize("batch", range(6))
def test_random_sketches(batch: int) -> None:
    for seed in range(batch * 10, batch * 10 + 10):
        sketch, tensors, symbols = random_sketch(np.random.default_rng(seed))
        compare(sketch, tensors, symbols, static=bool(seed % 2))


@pytest.mark.parametrize("dtype", HARD_DTYPES, ids=lambda d: d.value)
@pytest.mark.parametrize("case", HARD)
def test_hard_cases(case: str, dtype: DType) -> None:
    sketch = parse(HARD[case].strip().replace("DT", dtype.value))
    rng = np.random.default_rng(5)
    for m, n in [(1, 1), (3, 16), (35, 77)]:
        symbols = {"M": m, "N": n}
        tensors = arrays_for(sketch, symbols, rng)
        for name, array in tensors.items():
            if numpy_dtype(dtype).kind in "iu" and array.dtype == numpy_dtype(dtype):
                tensors[name] = rng.integers(0, 100, array.shape).astype(array.dtype)
            elif dtype.is_float and name == "x" and array.size > 40:
                array.reshape(-1)[[3, 17]] = np.nan  # propagates through every extreme, and is the first arg-extreme
        compare(sketch, tensors, symbols, static=m != 3)


def test_empty_problems_touch_nothing() -> None:
    sketch = program("cumsum")
    for symbols in ({"M": 0, "N": 5}, {"M": 3, "N": 0}, {"M": 0, "N": 0}):
        compare(sketch, arrays_for(sketch, symbols, np.random.default_rng(0)), symbols)


def test_a_missing_barrier_shows() -> None:
    """What runs the source here would notice: without any one of the barriers around a scan the values are wrong."""
    sketch = program("cumsum")
    symbols = {"M": 7, "N": 150}
    tensors = arrays_for(sketch, symbols, np.random.default_rng(0))
    want = {n: t.copy() for n, t in tensors.items()}
    interpret(sketch, want, symbols)
    kernel = lower(sketch)
    before, scan, after = kernel.source.rpartition("    scan_rows<")
    head, barrier, rest = before.rpartition("    __syncthreads();\n")
    assert not rest
    unguarded = {
        "before": head + scan + after,
        "after": before + scan + after.replace("    __syncthreads();\n", "", 1),
        "neither": kernel.source,
    }
    wrong = set()
    for missing, source in unguarded.items():
        for descending in (False, True):
            got = {n: t.copy() for n, t in tensors.items()}
            assert execute_kernel(CudaKernel(source, kernel.phases), sketch, got, symbols, descending=descending)
            if not np.allclose(got["y"], want["y"], rtol=1e-5, atol=1e-5):
                wrong.add(missing)
    assert barrier
    assert wrong == {"before", "after"}
