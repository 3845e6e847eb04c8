"""Which cases a job is judged on: sizes, kinds of values, and how many seeds of each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from akg_dynamo.agents.verifier import shapes
from akg_dynamo.core.types import Subgraph

SMALL_OUTPUT = 1024
POOLED_SEEDS = 32
_MEMBER_BYTES = 64 << 20  # the most a member of a shape class may take, besides the traced one
_WORKING_BYTES_PER_ELEMENT = 64  # inputs twice, outputs, eager, fp64 oracle and its intermediates


@dataclass(frozen=True)
class Group:
    """Cases of one kind at one size, whose errors are pooled."""

    sizes: Mapping[str, int]
    kind: str
    seeds: int
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


def groups(sub: Subgraph, seed: int) -> list[Group]:
    """The cases, the telling ones first. Empty: the task is too big for the memory there is."""
    limit = free_bytes() // 4 // _WORKING_BYTES_PER_ELEMENT
    members = shapes.members(sub, limit, seed)
    if not members or shapes.elements(sub, members[0]) > limit:
        return []
    found = _at(sub, members[0], full=True)
    for sizes in members[1:]:
        if shapes.elements(sub, sizes) * 4 <= _MEMBER_BYTES:
            found += _at(sub, sizes, full=False)
    return found


def _at(sub: Subgraph, sizes: Mapping[str, int], full: bool) -> list[Group]:
    total = shapes.elements(sub, sizes)
    smallest = min((math.prod(shapes.values(s.shape, sizes)) for s in sub.output_specs), default=1)
    pooled = POOLED_SEEDS if smallest < SMALL_OUTPUT else 1
    found = [Group(sizes, "normal", pooled, repeat=True)]
    if not any(s.dtype.startswith(("float", "bfloat")) for s in sub.inputs):
        return [*found, Group(sizes, "normal", 2, misaligned=True)] if full else found
    found.append(Group(sizes, "nan", 1))
    if not full:
        return found
    found += [Group(sizes, "dyadic", 1, misaligned=True), Group(sizes, "inf", 1)]
    if total <= 1 << 18 or pooled == 1 and total <= 1 << 20:
        found += [Group(sizes, "wide", pooled), Group(sizes, "offset", pooled)]
    return found
