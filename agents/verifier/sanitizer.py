"""compute-sanitizer, on demand: accesses out of bounds, races in shared memory, reads of what nobody wrote.

It slows a kernel down tenfold and more, and sees what guard zones cannot: reads whose values do not matter, and races
that came out right. What it runs is the program that `reproduce` writes, `--plain` (no zones and no poison, which would
be memory that may be read), each tensor in an allocation of its own.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
_OPTIONS = {"memcheck": ("--report-api-errors", "no")}  # torch asks for what there may not be
_FOUND = 86  # an exit status that the program itself does not use
_PLACES = ("CUDA_HOME", "CUDA_PATH")
_MOST_LINES = 12
_OF_OTHERS = re.compile(
    r"at\W+(?:void )?(?:at::|c10::|cub::|thrust::|(?:\w+::)?cu(?:blas|dnn|tlass)|memset|\w*vectorized_\w*kernel)"
)
"""A kernel that torch has brought: what compares, not what is compared."""


def installed() -> str:
    """Its path, or nothing."""
    found = shutil.which("compute-sanitizer")
    named = [os.environ[p] for p in _PLACES if p in os.environ]
    homes = [*named, "/usr/local/cuda", *map(str, sorted(Path("/usr/local").glob("cuda-*"), reverse=True))]
    return found or next((p for h in homes if os.access(p := f"{h}/bin/compute-sanitizer", os.X_OK)), "")


def findings(path: str, program: str, timeout_s: float, tools: Sequence[str] = TOOLS) -> dict[str, str]:
    """By tool, what it found ("": nothing), or that it could not say."""
    found: dict[str, str] = {}
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "program.py"
        file.write_text(program, encoding="utf-8")
        for tool in tools:
            options = ["--tool", tool, *_OPTIONS.get(tool, ()), "--error-exitcode", str(_FOUND)]
            command = [path, *options, sys.executable, str(file), "--plain"]
            try:
                done = subprocess.run(
                    command, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False, cwd=folder
                )
            except subprocess.TimeoutExpired:
                found[tool] = f"did not finish within {timeout_s:g} s"
                continue
            found[tool] = _said(done.returncode, done.stdout + done.stderr)
    return found


def _findings(output: str) -> Iterator[list[str]]:
    """What it found, one by one: a line that is not indented, and those below it."""
    block: list[str] = []
    for line in output.splitlines():
        text = line.removeprefix("=========").removeprefix(" ")
        if not line.startswith("=========") or text.startswith(("COMPUTE-SANITIZER", "ERROR SUMMARY", "RACECHECK SUM")):
            continue
        if text.strip() and text[0] != " " and block:
            yield block
            block = []
        block += [text.strip()] if text.strip() else []
    if block:
        yield block


def _said(status: int, output: str) -> str:
    lines = [line.strip("= \t") for line in output.splitlines() if line.startswith("=========")]
    if status == _FOUND:
        found = list(_findings(output))
        own = [block for block in found if not any(map(_OF_OTHERS.match, block))]
        said = [line for block in own for line in block]
        return "; ".join(said[:_MOST_LINES]) if said or found else "an error, of which it says nothing"
    if not any(line.startswith(("ERROR SUMMARY", "RACECHECK SUMMARY")) for line in lines):
        return f"could not say: exit status {status}; {(output.strip().splitlines() or ['no output'])[-1]}"
    return ""
