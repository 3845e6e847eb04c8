"""The four reference programs against torch, on sizes with tails, in every dtype that means something."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sketch_programs import NAMES, program
from torch_oracle import from_torch, torch_dtype

from akg_dynamo.agents.sketch import check, interpret, parse, to_text
from akg_dynamo.agents.sketch.ast import DType
from akg_dynamo.agents.sketch.numerics import numpy_dtype

FLOATS = [DType.F32, DType.F64, DType.F16, DType.BF16]
TOLERANCE = {DType.F64: 1e-12, DType.F32: 3e-6, DType.F16: 2e-3, DType.BF16: 1.6e-2}

dtypes = pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: d.value)


def normal(dtype: DType, *shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(torch_dtype(dtype))


def run(
    name: str, dtype: DType, tensors: dict[str, torch.Tensor], out: str, shape: tuple[int, ...], **sizes: int
) -> np.ndarray:
    arrays = {n: from_torch(t) for n, t in tensors.items()}
    arrays[out] = np.zeros(shape, numpy_dtype(dtype))
    interpret(program(name, dtype), arrays, sizes, rng=np.random.default_rng(7))
    return arrays[out].astype(np.float64)


def near(got: np.ndarray, want: torch.Tensor, dtype: DType) -> None:
    wide = want.double().numpy()
    np.testing.assert_allclose(got, wide, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * max(1, np.abs(wide).max()))


@pytest.mark.parametrize("name", NAMES)
def test_program_is_well_formed_and_survives_printing(name: str) -> None:
    for dtype in FLOATS:
        sketch = program(name, dtype)
        check(sketch)
        assert parse(to_text(sketch)) == sketch


@dtypes
@pytest.mark.parametrize("size", [(1, 1, 1), (16, 32, 32), (17, 33, 40), (31, 65, 7)])
def test_matmul_bias_gelu(dtype: DType, size: tuple[int, int, int]) -> None:
    m, n, k = size
    a, b, bias = normal(dtype, m, k), normal(dtype, k, n, seed=1), normal(dtype, n, seed=2)
    got = run("matmul_bias_gelu", dtype, {"a": a, "b": b, "bias": bias}, "y", (m, n), M=m, N=n, K=k)
    near(got, torch.nn.functional.gelu(a.double() @ b.double() + bias.double()), dtype)


@dtypes
@pytest.mark.parametrize("size", [(1, 1, 1, 1), (2, 8, 16, 16), (3, 13, 37, 24), (1, 20, 20, 128)])
def test_attention(dtype: DType, size: tuple[int, int, int, int]) -> None:
    h, t, s, d = size
    q, k, v = normal(dtype, h, t, d), normal(dtype, h, s, d, seed=1), normal(dtype, h, s, d, seed=2)
    scale = torch.tensor(d**-0.5).to(q.dtype)
    got = run("attention", dtype, {"q": q, "k": k, "v": v, "scale": scale}, "o", (h, t, d), H=h, T=t, S=s, D=d)
    seen = torch.ones(t, s, dtype=torch.bool).tril(s - t)
    score = (q.double() @ k.double().mT * scale.double()).masked_fill(~seen, -torch.inf)
    near(got, torch.softmax(score, -1) @ v.double(), dtype)


@dtypes
@pytest.mark.parametrize("size", [(1, 1), (4, 64), (5, 65), (3, 200)])
def test_cumsum(dtype: DType, size: tuple[int, int]) -> None:
    x = normal(dtype, *size)
    near(run("cumsum", dtype, {"x": x}, "y", size, M=size[0], N=size[1]), x.double().cumsum(1), dtype)


@dtypes
@pytest.mark.parametrize("size", [(1, 1, 1), (10, 64, 8), (7, 70, 19)])
def test_embedding(dtype: DType, size: tuple[int, int, int]) -> None:
    v, d, n = size
    table = normal(dtype, v, d)
    indices = torch.randint(-v, v, (n,), generator=torch.Generator().manual_seed(3))
    got = run("embedding", dtype, {"table": table, "indices": indices}, "y", (n, d), V=v, D=d, N=n)
    np.testing.assert_array_equal(got, table[indices].double().numpy())
