"""The errors of the vectorised functions, in units in the last place, against double (or extended) precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lowered import Array, execute

from akg_dynamo.agents.sketch import ast as sk
from akg_dynamo.agents.sketch import parse
from akg_dynamo.agents.sketch.ast import DType
from akg_dynamo.agents.sketch.numerics import numpy_dtype

# Largest error allowed, in float and in double.
_LONG_ROWS = """
sketch rows {
  symbols: M
  tensors: x[M, 65536]: f32 in, y[M]: f32 out, z[M]: f32 out
  for i in range(0, M):
    axis j = range(0, 65536, 65536)
    t = load(x[i, j:j+65536])
    store(reduce_sum(t, j) -> y[i])
    store(reduce_max(t, j) -> z[i])
}
"""
BOUNDS = {
    "exp": (1.1, 1.1), "exp2": (1.0, 1.0), "expm1": (1.8, 1.2), "log": (0.9, 0.9), "log2": (1.0, 1.0),
    "log10": (1.5, 2.1), "log1p": (1.3, 1.0), "sin": (1.6, 0.8), "cos": (1.6, 0.8), "tanh": (1.5, 1.5),
    "erf": (1.3, None), "sqrt": (0.5, 0.5), "sigmoid": (2.5, 2.5),
}  # fmt: skip


def inputs(dtype: DType) -> Array:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 200_001, dtype=np.uint32).view(np.float32)
    spread = [np.linspace(a, b, 60_000) for a, b in ((-104, 89), (-2, 2), (-9, 9), (-29_000, 29_000), (0.5, 2))]
    with np.errstate(invalid="ignore"):
        return np.concatenate([bits, *spread, [1e30, -1e30, 3e4, 1e6]]).astype(numpy_dtype(dtype))


def reference(name: str, x: Array) -> Array:
    wide = x.astype(np.longdouble)
    if name == "sigmoid":
        return np.asarray(1 / (1 + np.exp(-wide)))
    if name == "erf":
        return torch.erf(torch.from_numpy(x.astype(np.float64))).numpy()
    return np.asarray(getattr(np, name)(wide))


def test_long_sums_are_as_exact_as_short_ones() -> None:
    x = np.full((16, 65536), 0.1, np.float32)  # every addition rounds the same way
    arrays = {"x": x, "y": np.zeros(16, np.float32), "z": np.zeros(16, np.float32)}
    execute(parse(_LONG_ROWS.strip()), arrays, {"M": 16})
    errors = np.abs(arrays["y"] - x.astype(np.float64).sum(1)) / np.spacing(arrays["y"])
    assert errors.max() <= 4  # 130 without blocks
    assert (arrays["z"] == x.max(1)).all()


@pytest.mark.parametrize("dtype", [DType.F32, DType.F64], ids=lambda d: d.value)
def test_error_bounds(dtype: DType) -> None:
    column = 0 if dtype is DType.F32 else 1
    names = [n for n, bounds in BOUNDS.items() if bounds[column] is not None]
    size = sk.IntVar("N")
    index = (sk.Span("i"),)
    outs = [sk.TensorDecl(f"y_{n}", (size,), dtype, "out") for n in names]
    body = (
        sk.Assign("v", sk.Load(sk.TensorRef("x", index))),
        *(sk.Store(sk.Op(n, (sk.Name("v"),)), sk.TensorRef(f"y_{n}", index)) for n in names),
    )
    loop = sk.For("i", sk.IntConst(0), size, 1024, body)
    sketch = sk.Sketch("functions", ("N",), (sk.TensorDecl("x", (size,), dtype, "in"), *outs), (), (loop,))
    x = inputs(dtype)
    arrays = {"x": x} | {o.name: np.zeros(x.size, x.dtype) for o in outs}
    execute(sketch, arrays, {"N": x.size})
    problems = []
    for name in names:
        bound = BOUNDS[name][column]
        assert bound is not None
        with np.errstate(all="ignore"):
            want = reference(name, x)
            rounded = want.astype(x.dtype)
            got = arrays[f"y_{name}"]
            finite = np.isfinite(rounded)
            same = (got == rounded) | (np.isnan(got) & np.isnan(rounded))
            assert same[~finite].all(), f"{name}: wrong at {x[~finite & ~same][:5]}: {got[~finite & ~same][:5]}"
            if name == "sigmoid":  # exp overflows below this, as eager's does
                finite &= x > -87
            errors = np.abs(got[finite] - want[finite]) / np.spacing(np.abs(rounded[finite]))
        worst = int(np.argmax(np.nan_to_num(errors, nan=np.inf)))
        if not errors[worst] <= bound:
            problems.append(f"{name}: {float(errors[worst]):.3g} ulp at {x[finite][worst]!r}, allowed {bound}")
    assert not problems, "\n".join(problems)
