"""Triton as a compiler: its version for cache keys, kernels compiled ahead of time, and what they use of a GPU.

Nothing here needs a GPU: a target says what to compile for.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import types
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from akg_dynamo.agents.coder import triton_module
from akg_dynamo.core.errors import ToolchainError
from akg_dynamo.core.types import Candidate, Target

_TORCHS = Path(torch.__file__).parent / "bin" / "ptxas"


@cache
def version_text() -> str:
    """Triton's version and whose assembler it calls; "none" where Triton is not installed."""
    try:
        version = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return "none"
    assembler = _assembler()
    return f"triton {version}, {'ptxas of torch' if assembler == str(_TORCHS) else assembler or 'its ptxas'}"


def _assembler() -> str:
    """Which ptxas Triton is to call: what the user says, or torch's, where it has one; else its own, which is empty."""
    return os.environ.get("TRITON_PTXAS_PATH") or (str(_TORCHS) if _TORCHS.exists() else "")


def load(candidate: Candidate, build_dir: Path) -> types.ModuleType:
    """The candidate's module, executed.

    Raises:
        ToolchainError: Triton is not installed.
    """
    if version_text() == "none":
        raise ToolchainError("Triton is not installed: pip install 'akg-dynamo[cuda]'")
    return triton_module.load(candidate, build_dir)


def build(module: types.ModuleType, target: Target) -> None:
    """Compiles a module's kernels for the target, if that has not been done.

    Torch may bring an assembler that is newer than Triton's, and spills less or more. Inductor has Triton call torch's,
    for all that is compiled in its process from then on: it is called here from the beginning, in whichever process.

    Raises:
        ToolchainError: Triton refuses them.
    """
    from triton.errors import TritonError

    if assembler := _assembler():
        os.environ["TRITON_PTXAS_PATH"] = assembler
    try:
        module.build(capability(target))
    except (TritonError, RuntimeError) as error:  # RuntimeError: a pass of its compiler failed
        raise ToolchainError(f"Triton could not compile {module.__name__}: {error}") from error


def capability(target: Target) -> int:
    """The compute capability of a target: 90 for sm_90."""
    return int(target.isa.removeprefix("sm_"))


@dataclass(frozen=True)
class Resources:
    """What one compiled kernel takes of a multiprocessor. spilled_bytes: per thread, of registers kept in memory."""

    kernel: str
    registers: int
    spilled_bytes: int
    shared_bytes: int
    num_warps: int


def resources(module: types.ModuleType, target: Target) -> tuple[Resources, ...]:
    """What the kernels of a built module take, in the order in which they are launched; all versions of them."""
    found = []
    for launch in module.LAUNCHES:
        cubin, facts = launch.files(capability(target))
        about = json.loads(Path(facts).read_text(encoding="utf-8"))
        registers, spilled = _usage(Path(cubin), about["name"])
        found.append(Resources(about["name"], registers, spilled, about["shared"], about["num_warps"]))
    return tuple(found)


_USAGE = re.compile(
    r"Function (?P<name>\w+):\s*\n\s*REG:(?P<registers>\d+) STACK:(?P<stack>\d+).*?LOCAL:(?P<local>\d+)"
)


def _usage(cubin: Path, kernel: str) -> tuple[int, int]:
    """Registers, and bytes of stack and local memory, of a compiled kernel, by Triton's own cuobjdump."""
    from triton import knobs

    tool = knobs.nvidia.cuobjdump.path
    done = subprocess.run([tool, "--dump-resource-usage", str(cubin)], capture_output=True, text=True, check=False)
    for found in _USAGE.finditer(done.stdout):
        if found["name"] == kernel:
            return int(found["registers"]), int(found["stack"]) + int(found["local"])
    raise ToolchainError(f"{tool} says nothing of {kernel} in {cubin}: {done.stderr or done.stdout}")
