"""The C++ compiler: which one, with which flags, and its version for cache keys."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from akg_dynamo.agents.coder import module
from akg_dynamo.core import settings
from akg_dynamo.core.errors import ToolchainError
from akg_dynamo.core.targets import cpu_isa as isa
from akg_dynamo.core.types import Candidate

COMPILERS = ("g++", "c++", "clang++")
# Signed arithmetic wraps, as the sketch's does; a*b + c may be one fused operation; Inf and NaN are respected. The
# source is vectorised by hand: the compiler's own vectorisers only cost time, and GCC 12's miscompiles 8-byte vectors.
# The object calls its own functions, even where some library has made one of that name global.
FLAGS = (
    "-std=c++17", "-O3", "-march=native", "-fopenmp", "-fwrapv", "-fno-tree-vectorize", "-fno-math-errno",
    "-fno-trapping-math", "-shared", "-fPIC", "-Wl,-Bsymbolic", "-pipe",
)  # fmt: skip
UNFUSED = "-ffp-contract=off"
"""For kernels that round where eager rounds: a*b + c is two operations."""


def compiler() -> str:
    """The compiler's path. ToolchainError if there is none."""
    named = settings.cxx()
    for name in (named,) if named else COMPILERS:
        found = shutil.which(name)
        if found:
            return found
    if named:
        raise ToolchainError(f"CXX names {named!r}, which is not an executable: set it to a C++17 compiler")
    raise ToolchainError(f"no C++ compiler: none of {', '.join(COMPILERS)} is on PATH; install g++ or set CXX")


@cache
def _version(path: str) -> str:
    done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    return done.stdout.partition("\n")[0].strip()


def version_text() -> str:
    """Everything about the compiler that can change what a kernel computes, on one line; "none" without a compiler."""
    try:
        path = compiler()
    except ToolchainError:
        return "none"
    return f"{_version(path)} {' '.join(FLAGS)}"


__all__ = ["COMPILERS", "FLAGS", "UNFUSED", "build_many", "compiler", "isa", "version_text"]


def build_many(candidates: Sequence[Candidate], build_dir: Path, jobs: int) -> list[ToolchainError | None]:
    """Builds every distinct object side by side. For each candidate: None, or why it did not build."""
    objects: dict[Path, Candidate] = {module.object_path(c, build_dir): c for c in candidates}

    def build(candidate: Candidate) -> ToolchainError | None:
        try:
            module.load(candidate, build_dir).build()
        except RuntimeError as error:  # what the module raises for a compiler's failure
            return ToolchainError(str(error))
        except OSError as error:
            return ToolchainError(f"cannot build in {build_dir}: {error}")
        return None

    with ThreadPoolExecutor(max_workers=max(1, jobs), thread_name_prefix="akg-build") as pool:
        results = dict(zip(objects, pool.map(build, objects.values()), strict=True))
    return [results[module.object_path(c, build_dir)] for c in candidates]
