"""akg verify: right, wrong, and not comparable have exit codes 0, 1 and 2."""

from __future__ import annotations

from pathlib import Path

import pytest

from akg_dynamo.cli import verify
from akg_dynamo.core.errors import TaskError

TASK = """
import torch

class Model(torch.nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, x):
        return torch.relu(x) * self.scale

def get_init_inputs():
    return [3.0]

def get_inputs():
    return [torch.randn(16, 8)]
"""
KERNEL = TASK.replace("class Model", "class ModelNew").partition("def get_init_inputs")[0]


def files(tmp_path: Path, kernel: str) -> tuple[Path, Path]:
    (tmp_path / "task.py").write_text(TASK)
    (tmp_path / "kernel.py").write_text(kernel)
    return tmp_path / "task.py", tmp_path / "kernel.py"


def test_right(tmp_path: Path) -> None:
    found = verify.run(*files(tmp_path, KERNEL))
    assert found.wrong == ""
    assert found.inputs == 8  # 128 values each: enough to compare errors
    assert found.ratio > 0


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (KERNEL.replace("* self.scale", "* 2"), "error"),
        (KERNEL.replace("torch.relu(x)", "torch.relu(x.half().float())"), "error"),
        (KERNEL.replace("torch.relu(x)", "torch.relu(x) / (x * 0)"), "is nan"),
        (KERNEL.replace("torch.relu(x)", "torch.relu(x).double()"), "float64"),
        (KERNEL.replace("return", "y =") + "        x.mul_(2)\n        return y\n", "output 1"),
        (KERNEL.replace("return", "import akg_dynamo; return"), "must not need akg_dynamo"),
        (KERNEL.replace("return", "import os; os.abort(); return"), "it fails: exit code"),
    ],
    ids=["values", "precision", "NaN", "dtype", "writes its input", "needs AKG", "crashes"],
)  # fmt: skip
def test_wrong(tmp_path: Path, kernel: str, message: str) -> None:
    assert message in verify.run(*files(tmp_path, kernel)).wrong


def test_no_model_new(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="no class ModelNew"):
        verify.run(*files(tmp_path, TASK))
