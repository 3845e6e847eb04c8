"""A kernel that reads nothing: what it returns follows from constants alone."""

from __future__ import annotations

from pathlib import Path

import torch

from akg_dynamo import explain


def table(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    steps = torch.arange(33)
    return x @ x, torch.where(steps[:, None] > steps[None, :], 0.5, steps * 2.0)


def test_a_kernel_without_inputs(tmp_path: Path) -> None:
    x = torch.randn(4, 4)
    compiled = torch.compile(table, backend="akg", options={"gate": "correct", "cache_dir": str(tmp_path)})
    torch.testing.assert_close(compiled(x), table(x))
    assert explain()[-1].kernels
