"""`make demo` runs where it can be seen best: on a CUDA device, if there is one."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from akg_dynamo.core import settings

DEMO = Path(__file__).parents[2] / "examples" / "demo.py"


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec = importlib.util.spec_from_file_location("akg_demo", DEMO)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("is_there", "arguments", "device"),
    [(True, [], "cuda"), (False, [], "cpu"), (True, ["--device", "cpu"], "cpu")],
)
def test_where_it_runs(
    is_there: bool, arguments: list[str], device: str, demo: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[str, str]] = []

    def show(console: Any, name: str, device: str, with_inductor: bool) -> None:
        shown.append((name, device))

    monkeypatch.setattr(demo, "show", show)
    monkeypatch.setattr(
        demo, "environment", lambda device: {"cpu": "a CPU", "threads": 2, "capability": "", "torch": ""}
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: is_there)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(sys, "argv", ["demo.py", *arguments])
    assert demo.main() == 0
    assert shown == [("gpt", device), ("convnext", device)]
    assert {name for name, _ in shown} <= set(demo.MODELS[device])


def test_first_calls_are_compared_with_empty_caches(demo: ModuleType) -> None:
    names = ("AKG_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")
    before = [os.environ.get(name) for name in names]
    with demo.empty_caches():
        folders = [Path(os.environ[name]) for name in names]
        assert not any(folder.exists() for folder in folders)
        assert settings.cache_dir() == folders[0]
    assert [os.environ.get(name) for name in names] == before
    assert not folders[0].parent.exists()
