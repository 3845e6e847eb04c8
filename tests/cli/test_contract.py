"""Whole files beside their originals: equally accurate ones pass, less accurate ones do not, in float64 too."""

from __future__ import annotations

from pathlib import Path

import pytest

from akg_dynamo.cli import contract

ORIGINAL = """
import torch

class Model(torch.nn.Module):
    def forward(self, x):
        return {returned}

def get_init_inputs():
    return []

def get_inputs():
    return [torch.randn({shape}, dtype=torch.{dtype})]
"""
WRITTEN = """
import torch

class ModelNew(torch.nn.Module):
    def forward(self, x):
        return {returned}
"""


def judged(original: str, written: str, shape: str, dtype: str, folder: Path) -> str:
    (folder / "original.py").write_text(ORIGINAL.format(returned=original, shape=shape, dtype=dtype))
    (folder / "written.py").write_text(WRITTEN.format(returned=written))
    request = {
        "original": str(folder / "original.py"), "written": str(folder / "written.py"), "name": "Model",
        "from_model": False, "eval": False, "inputs": None, "device": None, "time": False,
    }  # fmt: skip
    return contract.run(request, folder, 100.0).wrong


@pytest.mark.parametrize(
    ("original", "written", "shape", "dtype"),
    [
        ("x.sum(1)", "x.flip(1).sum(1)", "256, 4096", "float64"),
        ("x.var(1)", "x.flip(1).var(1)", "64, 1000", "float64"),
        (
            "torch.softmax(x, 1)",
            "(lambda e: e / e.flip(1).sum(1, True))((x - x.amax(1, True)).exp())",
            "64, 300",
            "float64",
        ),
        ("torch.var_mean(x, 1)", "tuple(torch.var_mean(x.flip(1), 1))", "1024, 1024", "float32"),
        ("x.mean(1)", "x.flip(1).sum(1) * (1 / x.shape[1])", "1024, 1024", "float32"),
        ("x @ x.t()", "x.flip(1) @ x.flip(1).t()", "64, 64", "float32"),
    ],
)
def test_another_order_of_summation_passes(original: str, written: str, shape: str, dtype: str, tmp_path: Path) -> None:
    assert judged(original, written, shape, dtype, tmp_path) == ""


@pytest.mark.parametrize(
    ("original", "written", "shape", "dtype"),
    [
        ("x.sum(1)", "x.float().sum(1).double()", "256, 4096", "float64"),
        ("x.sum(1)", "x.sum(1) * (1 + 1e-12)", "256, 4096", "float64"),
        ("x.exp()", "x.float().exp().double()", "64, 64", "float64"),
        ("x.mean(1)", "x.bfloat16().mean(1).float()", "1024, 1024", "float32"),
        ("x.mean(1)", "x[:, 1:].mean(1)", "1024, 1024", "float32"),
        ("x.exp()", "x.exp() * 1.00001", "64, 64", "float32"),
        ("x @ x.t()", "x.bfloat16().float() @ x.t()", "64, 64", "float32"),
    ],
)
def test_fewer_digits_or_terms_do_not(original: str, written: str, shape: str, dtype: str, tmp_path: Path) -> None:
    assert "error" in judged(original, written, shape, dtype, tmp_path)
