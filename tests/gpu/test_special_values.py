"""Inf, NaN and denormals on a CUDA device: where eager's kernels there have them. `pytest -m gpu tests/gpu`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import akg_dynamo
from akg_dynamo.explanation import records

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.timeout(300),
]


def in_a_kernel(f: Callable[..., Any], cache: Path, *args: Tensor) -> Any:
    """What AKG's kernel gives: the judge must have found it right."""
    torch._dynamo.reset()
    records.clear()
    found = torch.compile(f, backend="akg", options={"gate": "correct", "cache_dir": str(cache)})(*args)
    (report,) = akg_dynamo.explain()
    assert report.kernels, [str(left.reason) for left in report.left]
    return found


def softmax_backward(g: Tensor, y: Tensor) -> Tensor:
    return torch.ops.aten._softmax_backward_data(g, y, 1, torch.float32)


def log_softmax_backward(g: Tensor, y: Tensor) -> Tensor:
    return torch.ops.aten._log_softmax_backward_data(g, y, 1, torch.float32)


@pytest.mark.parametrize("columns", [20, 3000])
@pytest.mark.parametrize("backward", [softmax_backward, log_softmax_backward])
def test_softmax_gradients(backward: Callable[..., Tensor], columns: int, tmp_path: Path) -> None:
    """g * y - y * the sum of g * y, on rows that torch holds whole and on longer ones."""
    torch.manual_seed(0)
    g, y = torch.randn(64, columns, device="cuda"), torch.rand(64, columns, device="cuda")
    g[0, 3], g[1, 4], g[2, 5] = torch.nan, torch.inf, -torch.inf
    y[3, 6], y[4, 7], y[5, 8], g[5, 8] = torch.inf, 0.0, torch.inf, -1.0
    torch.testing.assert_close(in_a_kernel(backward, tmp_path, g, y), backward(g, y), equal_nan=True)


@pytest.mark.parametrize("shape", [(16, 64, 8, 8), (16, 64, 1, 1)])
@pytest.mark.parametrize("affine", [True, False])
def test_group_norm(shape: tuple[int, ...], affine: bool, tmp_path: Path) -> None:
    """One formula for single pixels, another for more, a third without weights."""
    torch.manual_seed(0)
    x, w, b = torch.randn(shape, device="cuda"), torch.randn(64, device="cuda"), torch.randn(64, device="cuda")
    x[0, 3, 0, 0], x[1, 0, 0, 0] = torch.inf, torch.nan
    w[0], w[1], w[2], b[9] = torch.inf, -torch.inf, 0.0, torch.inf

    def normalised(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return F.silu(F.group_norm(x, 8, *((w, b) if affine else (None, None))))

    torch.testing.assert_close(
        in_a_kernel(normalised, tmp_path, x, w, b), normalised(x, w, b), equal_nan=True, rtol=1e-4, atol=1e-5
    )


def test_denormals(tmp_path: Path) -> None:
    x = torch.randn(4096, device="cuda") * 1e-39

    def steps(x: Tensor) -> tuple[Tensor, Tensor]:
        return x.floor(), x.abs().lgamma()

    for mine, theirs in zip(in_a_kernel(steps, tmp_path, x), steps(x), strict=True):
        torch.testing.assert_close(mine, theirs)
