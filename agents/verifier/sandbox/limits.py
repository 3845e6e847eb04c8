"""Limits of the kernel's on each process: memory, processor time, files, how many more of them there may be."""

from __future__ import annotations

import resource
from dataclasses import dataclass

from akg_dynamo.core.protection import Measure

GIB = 1 << 30


@dataclass(frozen=True)
class Limits:
    """What one worker may take. memory_bytes: beyond what it has when it starts. cpu_s: 0 is without limit."""

    memory_bytes: int = 4 * GIB
    cpu_s: int = 0
    file_bytes: int = GIB
    scratch_bytes: int = 2 * GIB
    open_files: int = 1024
    processes: int = 256


def set_limits(limits: Limits, device: str) -> list[Measure]:
    """Set those that hold for each process by itself."""
    memory = limits.memory_bytes
    if device == "cpu":
        # Address space, not data: memory that is shared counts too.
        _lower(resource.RLIMIT_AS, _in_use("VmSize") + memory)
        measures = [Measure("memory", f"{memory / GIB:.1f} GiB of address space for each process")]
    else:  # CUDA reserves as much address space as there is memory, on every device
        _lower(resource.RLIMIT_DATA, _in_use("VmData") + memory)
        measures = [Measure("memory", f"{memory / GIB:.1f} GiB of data for each process", "device memory has its own")]
    if limits.cpu_s:
        _lower(resource.RLIMIT_CPU, limits.cpu_s)
        measures.append(Measure("processor time", f"{limits.cpu_s} s, and by the clock for each request"))
    else:
        measures.append(Measure("processor time", "by the clock for each request"))
    _lower(resource.RLIMIT_FSIZE, limits.file_bytes)
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_NOFILE, limits.open_files)
    measures.append(Measure("large files", f"{limits.file_bytes / GIB:.1f} GiB each, {limits.open_files} open"))
    return measures


def limit_processes(count: int) -> None:
    """So many processes and threads of this process's user, where they are counted by user namespace or by user."""
    _lower(resource.RLIMIT_NPROC, count)


def _lower(which: int, value: int) -> None:
    _, hard = resource.getrlimit(which)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))


def _in_use(field: str) -> int:
    with open("/proc/self/status", encoding="ascii") as lines:
        for line in lines:
            if line.startswith(field + ":"):
                return int(line.split()[1]) << 10
    return 0
