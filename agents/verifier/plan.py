"""Which cases a job is judged on: sizes, kinds of values, and how many seeds of each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from akg_dynamo.agents.verifier import shapes
from akg_dynamo.core.types import Subgraph

SMALL_OUTPUT = 1024  # fewer elements than this are too few to compare two errors statistically
POOLED_SEEDS = 32  # for outputs of a few elements; larger ones get as many as make up SMALL_OUTPUT
_FEW_ELEMENTS = 64
UNPOOLED_SLACK = 16.0
_WORKING_BYTES_PER_ELEMENT = 64  # inputs twice, outputs, eager, fp64 oracle and its intermediates
_WORKING_BYTES_PER_ELEMENT_ON_DEVICE = 40  # the oracle's intermediates are freed as they die
_CANDIDATE_BYTES_PER_BYTE = 8  # of inputs and outputs: eager beside the kernel, with all of its intermediates
_LEAST_CANDIDATE_BYTES = 1 << 30
_TIMES_A_CORE = 16
_STORAGE_BYTES_PER_ELEMENT = 16  # of slices, which are held with what they were cut from


@dataclass(frozen=True)
class Group:
    """Cases of one kind at one size, whose errors are pooled."""

    sizes: Mapping[str, int]
    kind: str
    seeds: int
    slack: float = 1.0
    misaligned: bool = False
    repeat: bool = False

    def __str__(self) -> str:
        size = ",".join(f"{k}={v}" for k, v in self.sizes.items())
        return f"{self.kind}{' at ' + size if size else ''} x{self.seeds}{' misaligned' if self.misaligned else ''}"


def free_bytes() -> int:
    """Memory that can still be had."""
    with open("/proc/meminfo") as lines:
        for line in lines:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    return 1 << 32


@dataclass(frozen=True)
class Means:
    """What judging may take.

    limit_elements: inputs and outputs together.
    times_a_core: how many times the elements that a core of the host is given.
    candidate_bytes: what a candidate may allocate on its device.
    """

    limit_elements: int
    times_a_core: int = 1
    candidate_bytes: int = 0


def means(sub: Subgraph, device: str) -> Means:
    """What there is now; on a device, beside what its user has there."""
    if device == "cpu":
        return Means(free_bytes() // 4 // _WORKING_BYTES_PER_ELEMENT)
    free = torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    limit = free // 2 // _WORKING_BYTES_PER_ELEMENT_ON_DEVICE
    largest = max((shapes.storage_bytes(sub, sizes) for sizes in shapes.members(sub, limit, 0)), default=0)
    wanted = _LEAST_CANDIDATE_BYTES + _CANDIDATE_BYTES_PER_BYTE * largest
    return Means(limit, _TIMES_A_CORE, min(free // 4, wanted))


def groups(sub: Subgraph, seed: int, given: Means | None = None) -> list[Group]:
    """The cases, the telling ones first. Empty: the task is too big for the memory there is."""
    given = given or means(sub, "cpu")
    members = shapes.members(sub, given.limit_elements, seed)
    if not members or shapes.elements(sub, members[0]) > given.limit_elements:
        return []
    if shapes.storage_bytes(sub, members[0]) > _STORAGE_BYTES_PER_ELEMENT * given.limit_elements:
        return []
    found = _at(sub, members[0], given, full=True)
    for sizes in members[1:]:
        found += _at(sub, sizes, given, full=False)
    return found


def _at(sub: Subgraph, sizes: Mapping[str, int], given: Means, *, full: bool) -> list[Group]:
    total = shapes.elements(sub, sizes) // given.times_a_core
    smallest = min((math.prod(shapes.values(s.shape, sizes)) for s in sub.output_specs), default=1)
    small = smallest < SMALL_OUTPUT
    pooled = POOLED_SEEDS if smallest < _FEW_ELEMENTS else -(-SMALL_OUTPUT // smallest)
    slack = UNPOOLED_SLACK if small else 1.0
    if not full:
        found = [Group(sizes, "normal", 1, slack, repeat=True)]
        return [*found, Group(sizes, "nan", 1, slack)] if total <= 1 << 16 else found
    found = [Group(sizes, "normal", pooled, repeat=True)]
    if not any(s.dtype.startswith(("float", "bfloat")) for s in sub.inputs):
        return [*found, Group(sizes, "normal", 2, slack, misaligned=True)]
    found.append(Group(sizes, "nan", 1, slack, misaligned=True))
    if total > 1 << 24:
        return found
    found.append(Group(sizes, "dyadic", 1, slack, misaligned=True))
    if total > 1 << 22:
        return found
    found.append(Group(sizes, "inf", 1, slack))
    if total <= 1 << 17 or (not small and total <= 1 << 20):
        found += [Group(sizes, "wide", pooled), Group(sizes, "offset", pooled)]
    return found
