"""`akg verify`: a hand-written or foreign kernel against its task, in a process that does not have AKG."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from akg_dynamo.cli import contract, model_file
from akg_dynamo.core.errors import TaskError

_TIMEOUT_S = 600


@dataclass(frozen=True)
class Found:
    """What running both showed. `wrong` is empty for a kernel that is right on these inputs."""

    wrong: str
    error: float = float("inf")
    original_us: float = 0.0
    new_us: float = 0.0
    ratio: float = 0.0
    inputs: int = 0


def run(task: Path, kernel: Path, device: str | None = None) -> Found:
    """Compares the two files, on a device (None: where they put their tensors).

    Raises:
        TaskError: the task or the device cannot be used, or the kernel's file has no ModelNew.
    """
    model = model_file.read(task, device=device)
    if "class ModelNew" not in kernel.read_text():
        raise TaskError(f"{kernel} has no class ModelNew. A kernel's file defines it with the constructor of Model.")
    request = {
        "original": str(task.resolve()), "written": str(kernel.resolve()), "name": model.name,
        "inputs": None, "from_model": False, "eval": False, "time": True, "device": device,
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="akg-verify-") as folder:
        try:
            found = contract.run(request, Path(folder), _TIMEOUT_S)
        except contract.CannotRun as error:
            return Found(f"it {error}")
    times = {name: found.times[name] for name in ("original_us", "new_us", "ratio")}
    return Found(found.wrong, found.error, inputs=found.inputs, **times)
