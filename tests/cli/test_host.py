"""What doctor says of a machine with a GPU, with the GPU's side of torch replaced."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from akg_dynamo.agents.coder import triton_toolchain
from akg_dynamo.cli import host


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two GPUs of one kind."""
    monkeypatch.setenv("AKG_CACHE_DIR", str(tmp_path))
    about = SimpleNamespace(name="NVIDIA H200", multi_processor_count=132, total_memory=139 << 30)
    replaced: dict[str, Any] = {
        "is_available": lambda: True,
        "device_count": lambda: 2,
        "current_device": lambda: 0,
        "get_device_capability": lambda device=None: (9, 0),
        "get_device_properties": lambda device: about,
    }
    for name, value in replaced.items():
        monkeypatch.setattr(torch.cuda, name, value)
    run = subprocess.run

    def answer(command: list[str], **kwargs: Any) -> Any:
        if command[0] == "nvidia-smi":
            return subprocess.CompletedProcess(command, 0, stdout="580.159.04\n580.159.04\n")
        return run(command, **kwargs)

    monkeypatch.setattr(subprocess, "run", answer)


def test_doctor_describes_the_gpu(gpu: None) -> None:
    health = host.examine()
    assert health.facts["backends"] == "cpu (dsl cpp, arch native); cuda (dsl triton_cuda, arch sm_90)"
    assert health.facts["GPU"] == "NVIDIA H200 (sm_90, 132 multiprocessors, 139 GiB), 2 of them"
    assert health.facts["driver"] == "580.159.04"
    assert health.facts["triton"][0].isdigit()
    assert set(health.kept_from) == set(health.by_rules_kept_from) == {"cpu", "cuda"}


def test_a_gpu_without_triton_lacks_something(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_toolchain, "version_text", lambda: "none")
    assert any("triton" in problem for problem in host.examine().missing)
