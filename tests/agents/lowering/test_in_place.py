"""A kernel that writes over one of its inputs gives the very bits that it gives elsewhere."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from lowered import Array, build

from akg_dynamo.agents.lowering.cpp import CppKernel, lower
from akg_dynamo.agents.sketch import parse, to_text
from akg_dynamo.agents.sketch.ast import DType, Sketch
from akg_dynamo.agents.sketch.numerics import numpy_dtype
from akg_dynamo.agents.sketch.overwrite import overwritable

SHAPES = {"same": "M, N", "other": "M, N", "row": "N", "column": "M", "turned": "N, M"}
LOOPS = {
    "scalar, tiled": ("for i in range(0, M):", "for j in range(0, N, BN):", "i", "j:j+BN"),
    "tiled, tiled": ("for i in range(0, M, BM):", "for j in range(0, N, BN):", "i:i+BM", "j:j+BN"),
    "tiled, scalar": ("for i in range(0, M, BM):", "for j in range(0, N):", "i:i+BM", "j"),
    "whole rows": ("for i in range(0, M):", "axis j = range(0, N, BN)", "i", "j:j+BN"),
}


def random_elementwise(rng: np.random.Generator, dtype: DType, loops: str) -> Sketch:
    """One store of a random expression: values used once and often, inputs read once and often."""
    outer, inner, i, j = LOOPS[loops]
    index = {"same": f"{i}, {j}", "other": f"{i}, {j}", "row": j, "column": i, "turned": f"{j}, {i}"}
    used = ["same", *(n for n in ("other", "row", "column", "turned") if rng.random() < 0.5)]
    values = [f"load({n}[{index[n]}])" for n in used]
    lines = []
    for k in range(rng.integers(1, 6)):
        a, b = rng.choice(values), rng.choice(values)
        lines.append(f"v{k} = {rng.choice(['{} + {}', '{} * {}', 'maximum({}, {})', '{} - {}']).format(a, b)}")
        values.append(f"v{k}")
    lines.append(f"store({values[-1]} - {rng.choice(values)} -> y[{i}, {j}])")
    indent = "      " if inner.startswith("for") else "    "
    tensors = ", ".join(f"{n}[{SHAPES[n]}]: {dtype.value} in" for n in used)
    body = "".join(f"{indent}{line}\n" for line in lines)
    return parse(
        f"sketch s {{\n  symbols: M, N\n  tensors: {tensors}, y[M, N]: {dtype.value} out\n"
        f"  constexpr: BM = {rng.choice([16, 32])}, BN = {rng.choice([128, 256])}\n"
        f'  @llm_hint("parallel")\n  {outer}\n    {inner}\n{body}}}'
    )


def run(kernel: CppKernel, sketch: Sketch, arrays: dict[str, Array], symbols: dict[str, int]) -> None:
    """One launch."""
    pointers = [ctypes.c_void_p(arrays[t.name].ctypes.data) for t in sketch.tensors]
    build(kernel)(*pointers, *(ctypes.c_int64(symbols[s]) for s in sketch.symbols))


@pytest.mark.parametrize("loops", LOOPS)
@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16, DType.F64, DType.I32, DType.U8], ids=lambda d: d.value)
def test_over_an_input(dtype: DType, loops: str) -> None:
    rng = np.random.default_rng(len(loops) + dtype.size_bytes)
    for _ in range(3):
        sketch = random_elementwise(rng, dtype, loops)
        kernel = lower(sketch)
        found = sorted(overwritable(sketch, lane_by_lane=True))
        assert ("y", "same") in found
        for m, n in [(1, 1), (3, 128), (37, 77), (64, 101)]:
            symbols = {"M": m, "N": n}
            sizes = {t.name: tuple(symbols[d.name] for d in t.shape) for t in sketch.tensors}  # type: ignore[union-attr]
            arrays = {k: rng.integers(0, 50, s).astype(numpy_dtype(dtype)) for k, s in sizes.items()}
            run(kernel, sketch, arrays, symbols)
            for output, source in found:
                again = {k: a.copy() for k, a in arrays.items()}
                again[output] = again[source]
                run(kernel, sketch, again, symbols)
                for name, array in again.items():
                    want = arrays[output if name == source else name]
                    assert array.tobytes() == want.tobytes(), f"{name}, {symbols}\n{to_text(sketch)}"
