"""On a GPU: what the other tests show in Triton's interpreter, and what only hardware shows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lowered import arrays_for
from random_sketch import random_sketch
from sketch_programs import program
from test_operations import OPS, applicable, assert_close, elementwise, values
from test_sketches import FLOATS, HARD, SIZES
from triton_lowered import compare, execute, load

from akg_dynamo.agents.lowering.triton_cuda import lower
from akg_dynamo.agents.sketch import interpret, parse
from akg_dynamo.agents.sketch.ast import DType
from akg_dynamo.agents.sketch.numerics import numpy_dtype

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
# libdevice's own error; near lgamma's zeros it is relative to what is summed; exp(-x) overflows where sigmoid is tiny
FEW_ULPS = {"pow": 16, "lgamma": 1e4, "sigmoid": 4}


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: d.value)
@pytest.mark.parametrize("name", SIZES)
def test_reference_programs(name: str, dtype: DType) -> None:
    rng = np.random.default_rng(3)
    sketch = program(name, dtype)
    for symbols in SIZES[name]:
        given = {"indices": rng.integers(-symbols["V"], symbols["V"], symbols["N"])} if name == "embedding" else {}
        if name == "attention":
            given = {"scale": np.asarray(0.3, numpy_dtype(dtype))}
        compare(sketch, arrays_for(sketch, symbols, rng, **given), symbols, static=False, gpu=True)


@pytest.mark.parametrize("batch", range(10))
def test_random_sketches(batch: int) -> None:
    for seed in range(1000 + batch * 10, 1010 + batch * 10):
        sketch, tensors, symbols = random_sketch(np.random.default_rng(seed))
        compare(sketch, tensors, symbols, static=bool(seed % 2), gpu=True)


@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16, DType.I64, DType.U8], ids=lambda d: d.value)
@pytest.mark.parametrize("case", HARD)
def test_hard_cases(case: str, dtype: DType) -> None:
    sketch = parse(HARD[case].strip().replace("DT", dtype.value))
    symbols = {"M": 35, "N": 77}
    tensors = arrays_for(sketch, symbols, np.random.default_rng(5))
    if dtype.is_float:
        tensors["x"].reshape(-1)[[3, 17]] = np.nan
    compare(sketch, tensors, symbols, static=dtype.is_float, gpu=True)


@pytest.mark.parametrize("dtype", list(DType), ids=lambda d: d.value)
def test_every_operation(dtype: DType) -> None:
    """Denormals, infinities and NaN included."""
    rng = np.random.default_rng(1)
    names = [name for name in applicable(dtype) if name != "checked"]
    sketch, size = elementwise(dtype, names, True), 4099
    tensors = {n: values(dtype, rng, size) for n in "abc"}
    if dtype.is_int:
        tensors["b"][tensors["b"] == 0] = 3
    tensors["m"] = values(DType.BOOL, rng, size)
    for t in sketch.tensors:
        tensors.setdefault(t.name, np.zeros(size, numpy_dtype(t.dtype)))
    want = {n: t.copy() for n, t in tensors.items()}
    with np.errstate(all="ignore"):
        interpret(sketch, want, {"N": size})
    execute(sketch, tensors, {"N": size}, {"N": size}, gpu=True)
    problems = []
    for name in names:
        got, right = tensors[f"y_{name}"], want[f"y_{name}"]
        if name in FEW_ULPS and dtype.is_float:
            finite = np.isfinite(right.astype(np.float64))
            error = np.abs(got.astype(np.float64) - right.astype(np.float64))[finite]
            allowed = FEW_ULPS[name] * np.spacing(np.maximum(np.abs(right[finite]), 1)).astype(np.float64)
            if not np.all(error <= allowed):
                problems.append(f"{name}: {error.max()}")
            continue
        try:
            assert_close(name, dtype, got, right, [tensors[n] for n in "abc"[: OPS[name].arity]])
        except AssertionError as e:
            problems.append(str(e)[:400])
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("size", [1, 1024, 5001, 70003])
def test_odd_sizes(size: int) -> None:
    """Full tiles without a mask, the last one with it."""
    sketch = parse(
        """sketch odd {
  symbols: N
  tensors: x[N]: bf16 in, y[N]: bf16 out
  @llm_hint("parallel")
  for i in range(0, N, 1024):
    store(cast(exp(cast(load(x[i:i+1024]), f32)) + 1.0, bf16) -> y[i:i+1024])
}"""
    )
    compare(sketch, arrays_for(sketch, {"N": size}, np.random.default_rng(size)), {"N": size}, gpu=True)


@pytest.mark.parametrize("static", [True, False])
def test_more_than_2_to_31_elements(static: bool) -> None:
    sketch = parse(
        """sketch large {
  symbols: M, N
  tensors: x[M, N]: u8 in, y[M, N]: u8 out, last[M]: u8 out
  @llm_hint("parallel")
  for i in range(0, M):
    for k in range(0, N, 4096):
      store(load(x[i, k:k+4096]) + 1 -> y[i, k:k+4096])
    store(load(x[i, N-1]) -> last[i])
}"""
    )
    for m, n in ((3, (1 << 30) + 5), (1, (1 << 31) + 4095), (70000, 40003)):
        symbols = {"M": m, "N": n}
        kernel = lower(sketch, sizes=symbols if static else {})
        (phase,) = kernel.phases
        x = torch.randint(0, 255, (m, n), dtype=torch.uint8, device="cuda")
        y, last = torch.zeros_like(x), torch.zeros(m, dtype=torch.uint8, device="cuda")
        memory = {"x": x, "y": y, "last": last}
        launch = getattr(load(kernel), phase.name)[(m,)]
        launch(*(memory[t] for t in phase.tensors), *(symbols[s] for s in phase.symbols))
        assert torch.equal(last, x[:, -1])
        x += 1
        assert torch.equal(x, y)
