"""Which cases a job is judged on: sizes, kinds of values, and how many seeds of each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from akg_dynamo.agents.verifier import shapes
from akg_dynamo.core.types import Subgraph

SMALL_OUTPUT = 1024  # fewer elements than this are too few to compare two errors statistically
POOLED_SEEDS = 32  # for outputs of a few elements; larger ones get as many as make up SMALL_OUTPUT
_FEW_ELEMENTS = 64
UNPOOLED_SLACK = 16.0
_WORKING_BYTES_PER_ELEMENT = 64  # inputs twice, outputs, eager, fp64 oracle and its intermediates


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


def groups(sub: Subgraph, seed: int) -> list[Group]:
    """The cases, the telling ones first. Empty: the task is too big for the memory there is."""
    limit = free_bytes() // 4 // _WORKING_BYTES_PER_ELEMENT
    members = shapes.members(sub, limit, seed)
    if not members or shapes.elements(sub, members[0]) > limit:
        return []
    found = _at(sub, members[0], full=True)
    for sizes in members[1:]:
        found += _at(sub, sizes, full=False)
    return found


def _at(sub: Subgraph, sizes: Mapping[str, int], full: bool) -> list[Group]:
    total = shapes.elements(sub, sizes)
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
