"""What a call costs when no cache holds what it needs, as when a program has done something else in between.

Timed one after another, calls find their code, and what data there is room for, in the caches; a program's first call
after other work does not. Both figures are true; the second says what a kernel that moves less gains at worst.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

SAMPLES = 7
_LEAST_BYTES = 32 << 20
_MOST_BYTES = 256 << 20
_OWN_BYTES = 4 << 20  # what a core has for itself, and no other reads through
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_UNITS = {"K": 1 << 10, "M": 1 << 20}


@functools.cache
def cache_bytes() -> int:
    """How much the largest cache of the host holds; a guess, where the system does not say."""
    sizes = [_LEAST_BYTES // 2]
    for file in _CACHES.glob("index*/size"):
        text = file.read_text(encoding="ascii").strip()
        sizes.append(int(text.rstrip("KM")) * _UNITS.get(text[-1:], 1))
    return max(sizes)


class HostCaches:
    """The caches of the cores that this process may run on."""

    def __init__(self) -> None:
        size = max(_LEAST_BYTES, min(_MOST_BYTES, 2 * cache_bytes()))
        self._other = bytearray(b"\x01") * size  # written: pages that never were are all the same one

    def flush(self) -> None:
        """Read more than they hold, on every core: each has caches of its own."""
        allowed = os.sched_getaffinity(0)
        last = max(allowed)
        for core in sorted(allowed):
            if len(allowed) > 1:
                os.sched_setaffinity(0, {core})
            self._other.find(b"\x00", 0, len(self._other) if core == last else _OWN_BYTES)
        if len(allowed) > 1:
            os.sched_setaffinity(0, allowed)


class DeviceCaches:
    """The cache of the current CUDA device, which all processes share."""

    def __init__(self) -> None:
        size = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
        self._other = torch.empty(2 * max(size, 1 << 20), dtype=torch.uint8, device="cuda")

    def flush(self) -> None:
        """Overwrite twice as much as it holds."""
        self._other.zero_()
        torch.cuda.synchronize()


def cold_on_host(
    run: Callable[..., Any], eager: Callable[..., Any], sets: Sequence[Sequence[Any]]
) -> tuple[float, float]:
    """Microseconds of one call of eager, and of one of the kernel, each after a flush."""
    caches = HostCaches()
    times: dict[bool, list[float]] = {False: [], True: []}
    for i in range(SAMPLES):
        for kernel in (False, True):
            function, arguments = run if kernel else eager, sets[i % len(sets)]
            caches.flush()
            start = time.perf_counter()
            function(*arguments)
            times[kernel].append(time.perf_counter() - start)
    return min(times[False]) * 1e6, min(times[True]) * 1e6  # whatever else runs only makes samples longer
