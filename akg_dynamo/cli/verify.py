"""`akg verify`: a hand-written or foreign kernel against its task, in a process that does not have AKG."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from akg_dynamo.cli import model_file, standalone
from akg_dynamo.core.errors import TaskError

_TIMEOUT_S = 600


@dataclass(frozen=True)
class Found:
    """What running both showed. `wrong` is empty for a kernel that is right on these inputs."""

    wrong: str
    error: float
    original_us: float
    new_us: float
    ratio: float
    inputs: int


def _failed(why: str) -> Found:
    return Found(why, float("inf"), 0.0, 0.0, 0.0, 0)


def run(task: Path, kernel: Path) -> Found:
    """Compares the two files.

    Raises:
        TaskError: the task cannot be used, or the kernel's file has no ModelNew.
    """
    model = model_file.read(task)
    if "class ModelNew" not in kernel.read_text():
        raise TaskError(f"{kernel} has no class ModelNew. A kernel's file defines it with the constructor of Model.")
    with tempfile.TemporaryDirectory(prefix="akg-verify-") as folder:
        request = Path(folder) / "request.json"
        request.write_text(
            json.dumps(
                {
                    "original": str(task.resolve()), "written": str(kernel.resolve()), "name": model.name,
                    "inputs": None, "from_model": False, "eval": False, "time": True,
                }
            )
        )  # fmt: skip
        start = "import runpy, sys; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
        command = [sys.executable, "-c", start, str(Path(standalone.__file__).resolve()), str(request)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, cwd=folder, check=False)
        except subprocess.TimeoutExpired:
            return _failed(f"it did not finish within {_TIMEOUT_S} s")
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}, and it said nothing"])[-1]
        return _failed(f"it fails: {last}")
    answer = json.loads(lines[-1])
    return Found(**{f.name: answer.get(f.name, 0.0) for f in dataclasses.fields(Found)})
