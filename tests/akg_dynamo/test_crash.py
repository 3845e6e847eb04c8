"""A kernel that takes the process down is never run again, by any process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_PROGRAM = """
import ctypes, dataclasses, sys
import torch
from akg_dynamo import compiler, explain

if sys.argv[1] == "crash":
    load = compiler._load

    def load_a_bomb(*args, **kwargs):
        return dataclasses.replace(load(*args, **kwargs), run=lambda *_: ctypes.string_at(0))

    compiler._load = load_a_bomb

x = torch.arange(12.0).view(3, 4)
y = torch.compile(lambda x: torch.softmax(x * 2, -1) + 1, backend="akg", options={"gate": "correct"})(x)
torch.testing.assert_close(y, torch.softmax(x * 2, -1) + 1)
(graph,) = explain()
print(len(graph.kernels), sorted({str(node.reason) for node in graph.left}))
"""


def _run(how: str, cache: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _PROGRAM, how],
        env={"AKG_CACHE_DIR": str(cache), "PATH": "/usr/bin:/bin", "HOME": str(cache)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_a_kernel_that_crashed_a_process_is_quarantined_for_the_next(tmp_path: Path) -> None:
    crashed = _run("crash", tmp_path)
    assert crashed.returncode < 0, crashed.stderr
    after = _run("calm", tmp_path)
    assert after.returncode == 0, after.stderr
    assert after.stdout.startswith("0 "), after.stdout
    assert "it took its process down" in after.stdout


def test_a_kernel_that_did_not_crash_is_used_by_the_next_process(tmp_path: Path) -> None:
    for _ in range(2):
        calm = _run("calm", tmp_path)
        assert calm.returncode == 0, calm.stderr
        assert calm.stdout.startswith("1 "), calm.stdout
