"""compute-sanitizer, on demand: accesses out of bounds, races in shared memory, reads of what nobody wrote.

It slows a kernel down tenfold and more, and sees what guard zones cannot: reads whose values do not matter, and races
that came out right. What it runs is the program that `reproduce` writes, `--plain` (no zones and no poison, which would
be memory that may be read), each tensor in an allocation of its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
_FOUND = 86  # an exit status that the program itself does not use
_PLACES = ("CUDA_HOME", "CUDA_PATH")
_MOST_LINES = 12


def installed() -> str:
    """Its path, or nothing."""
    found = shutil.which("compute-sanitizer")
    homes = [*(os.environ[p] for p in _PLACES if p in os.environ), "/usr/local/cuda"]
    return found or next((p for h in homes if os.access(p := f"{h}/bin/compute-sanitizer", os.X_OK)), "")


def findings(path: str, program: str, timeout_s: float, tools: Sequence[str] = TOOLS) -> dict[str, str]:
    """By tool, what it found ("": nothing), or that it could not say."""
    found: dict[str, str] = {}
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "program.py"
        file.write_text(program, encoding="utf-8")
        for tool in tools:
            command = [path, "--tool", tool, "--error-exitcode", str(_FOUND), sys.executable, str(file), "--plain"]
            try:
                done = subprocess.run(
                    command, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False, cwd=folder
                )
            except subprocess.TimeoutExpired:
                found[tool] = f"did not finish within {timeout_s:g} s"
                continue
            found[tool] = _said(done.returncode, done.stdout + done.stderr)
    return found


def _said(status: int, output: str) -> str:
    lines = [line.strip("= \t") for line in output.splitlines() if line.startswith("=========")]
    said = [line for line in lines if line and not line.startswith(("COMPUTE-SANITIZER", "ERROR SUMMARY: 0"))]
    if status == _FOUND:
        return "; ".join(said[:_MOST_LINES]) or "an error, of which it says nothing"
    if not any(line.startswith(("ERROR SUMMARY", "RACECHECK SUMMARY")) for line in lines):
        return f"could not say: exit status {status}; {(output.strip().splitlines() or ['no output'])[-1]}"
    return ""
