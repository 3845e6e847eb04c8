"""akg explain: what would be fused, what is known of it, why the rest stays with torch; nothing is generated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from akg_dynamo.cli.main import app

MODEL = """
import torch

class Model(torch.nn.Module):
    def forward(self, x):
        return torch.softmax(torch.sin(x) * 2 + torch.mm(x, x), -1)

def get_init_inputs():
    return []

def get_inputs():
    return [torch.randn(64, 64)]
"""


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AKG_CACHE_DIR", str(tmp_path / "cache"))
    path = tmp_path / "model.py"
    path.write_text(MODEL)
    return path


def test_subgraphs_and_what_is_left(model: Path) -> None:
    done = CliRunner().invoke(app, ["explain", str(model), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    (row,) = found["subgraphs"]
    assert row["known"].startswith("not in the cache")
    assert "aten.mm.default" in {left["target"] for left in found["left"]}
    assert found["without_effect"] == []


def test_options_without_effect_are_said(model: Path) -> None:
    done = CliRunner().invoke(app, ["explain", str(model), "--arch", "h200"])
    assert done.exit_code == 0, done.output
    assert "without effect: arch='h200': this graph runs on cpu" in done.stdout
