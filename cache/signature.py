"""What a kernel is filed under: everything that changes what is computed, or whether a verdict still holds.

Two keys, because two verdicts:
  `key`     *right* depends on the operation, the numerics the user asked for, every flag that changes what eager
            computes (a verdict won under TF32 must never serve a user without it), the target, the compilers and our
            own generator.
  `device`  *worth it* depends further on the device and its thread count.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
from dataclasses import asdict
from pathlib import Path

import torch

import akg_dynamo
from akg_dynamo.cache import shape_class
from akg_dynamo.cache.flags import EagerFlags
from akg_dynamo.core.types import Subgraph, Target

# The packages whose text decides what is generated for a subgraph, and how it is judged.
_GENERATOR_FOLDERS = (
    "agents/sketch",
    "agents/designer",
    "agents/lowering",
    "agents/coder",
    "agents/verifier",
    "agents/profiler",
    "fusion",
)


@functools.cache
def generator_version() -> str:
    """A digest of our own source: a rule that changes must not be served kernels that the old rule made."""
    root = Path(akg_dynamo.__file__).parent
    digest = hashlib.sha256()
    for folder in _GENERATOR_FOLDERS:
        for path in sorted((root / folder).glob("**/*")):
            if path.suffix in (".py", ".j2", ".h"):
                digest.update(path.relative_to(root).as_posix().encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def key(
    sub: Subgraph,
    target: Target,
    *,
    numerics: str = "bounded",
    rtol: float | None = None,
    flags: EagerFlags | None = None,
    toolchain: str = "",
) -> str:
    """The name a kernel for `sub` is filed under: 64 hex digits.

    toolchain: the DSL compiler's version and flags, as one text.
    """
    parts = {
        "subgraph": sub.text,
        "shape_class": shape_class.of(sub).text,
        "target": asdict(target),
        "numerics": [numerics, rtol],
        "flags": asdict(flags if flags is not None else EagerFlags.now()),
        "toolchain": toolchain,
        "torch": torch.__version__,
        "generator": generator_version(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def device(target: Target) -> str:
    """What a *worth it* verdict is filed under: the device's name and how many threads torch may use on it."""
    if target.backend == "cpu":
        return f"{_cpu_name()}, {torch.get_num_threads()} of {_cpus()} threads"
    if target.backend == "cuda" and torch.cuda.is_available():
        found = torch.cuda.get_device_properties(torch.cuda.current_device())
        return f"{found.name}, {found.multi_processor_count} multiprocessors"
    return f"{target.backend} {target.arch}"


@functools.cache
def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
