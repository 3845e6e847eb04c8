"""What can be generated for, and the hardware of this machine.

A DSL belongs to one backend; an arch is a kind of hardware of that backend. "native" is what this machine has: it is
resolved where a target is made, so that everything behind it (keys, compilers, verdicts) sees a definite one.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from functools import cache

import torch

from akg_dynamo.core.errors import OptionError
from akg_dynamo.core.types import Target

DSLS: Mapping[str, str] = {"cpp": "cpu", "triton_cuda": "cuda"}
"""The DSLs that have a lowering, each with the backend it generates for. A backend's first one is its default."""

_CARDS: Mapping[str, str] = {
    "a100": "sm_80", "a10": "sm_86", "l4": "sm_89", "l40s": "sm_89", "rtx4090": "sm_89", "h20": "sm_90",
    "h100": "sm_90", "h200": "sm_90",
}  # fmt: skip
ARCHS: Mapping[str, tuple[str, ...]] = {
    "cpu": ("native",),
    "cuda": ("native", "sm_80", "sm_86", "sm_89", "sm_90", *_CARDS),
}
"""By backend, the archs that can be named."""


def default_dsl(backend: str) -> str | None:
    """The DSL that a backend's kernels are written in unless the user names another; None if there is none."""
    return next((dsl for dsl, of in DSLS.items() if of == backend), None)


def check_arch(dsl: str, arch: str) -> None:
    """Raises OptionError unless the arch is one that the DSL can be compiled for."""
    known = ARCHS[DSLS[dsl]]
    if arch not in known:
        raise OptionError(f"arch={arch!r} is not one of dsl {dsl!r}: {', '.join(map(repr, known))}")


def resolve(dsl: str, arch: str = "native") -> Target:
    """The target of a DSL, with the hardware of this machine for "native".

    Asking for the native arch of a GPU initialises CUDA, after which a process must not be forked.

    Raises:
        OptionError: the arch is not one of the DSL's, or there is no such device to be native on.
    """
    check_arch(dsl, arch)
    backend = DSLS[dsl]
    if backend == "cpu":
        return Target(backend, dsl, arch, cpu_isa())
    found = cuda_arch() if arch == "native" else _CARDS.get(arch, arch)
    if found is None:
        raise OptionError(f"there is no CUDA device here: name an arch for dsl {dsl!r} (one of {', '.join(_CARDS)})")
    return Target(backend, dsl, found, found)


def cuda_arch(device: int | None = None) -> str | None:
    """The arch of a GPU of this machine (by default the current one); None without one. Initialises CUDA."""
    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


@cache
def cpu_isa() -> str:
    """The instruction sets of this CPU, as a short hash: what -march=native depends on."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as f:
            for line in f:
                if line.startswith(("flags", "Features")):
                    return hashlib.sha256(" ".join(sorted(line.split()[2:])).encode()).hexdigest()[:8]
    except OSError:
        pass
    return hashlib.sha256(f"{platform.machine()} {platform.processor()}".encode()).hexdigest()[:8]
