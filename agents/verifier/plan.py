"""Which cases a job is judged on: sizes, kinds of values, and how many seeds of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from akg_dynamo.agents.verifier import shapes
from akg_dynamo.agents.verifier.inputs import ADVERSARIAL
from akg_dynamo.agents.verifier.layouts import Layout
from akg_dynamo.core.types import Subgraph, TensorSpec
from akg_dynamo.fusion.reference import refs

SMALL_OUTPUT = 1024  # fewer elements than this are too few to compare two errors statistically
POOLED_SEEDS = 32  # for outputs of a few elements; larger ones get as many as make up SMALL_OUTPUT
_FEW_ELEMENTS = 64
UNPOOLED_SLACK = 16.0
_WORKING_BYTES_PER_ELEMENT = 64  # inputs twice, outputs, eager, fp64 oracle and its intermediates
_WORKING_BYTES_PER_ELEMENT_ON_DEVICE = 40  # the oracle's intermediates are freed as they die
_SHARE = 4  # of the memory that is free, judging takes one part in so many
_CANDIDATE_BYTES_PER_BYTE = 8  # of inputs and outputs: eager beside the kernel, with all of its intermediates
_LEAST_CANDIDATE_BYTES = 1 << 30
LARGE_ELEMENTS = 1 << 20  # of a case on the host: smaller members of its class are judged in its stead
RELATIVE_ELEMENTS = 1 << 17
SAMPLED_ELEMENTS = 1 << 22
SLICE_ELEMENTS = 1 << 20
_LEAST_SLICE_ELEMENTS = 1 << 14
_SLICES = 64
_POOLED_ELEMENTS = 1 << 23
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
    sampled: bool = False  # so large that slices of it stand for the whole before fp64
    pieces: bool = False  # so large that eager is never asked for all of it: slices are compared, each on its own
    layout: Layout | None = None  # of the inputs, where it is not the traced one: values are compared, strides are not

    def __str__(self) -> str:
        size = ",".join(f"{k}={v}" for k, v in self.sizes.items())
        how = f"{' misaligned' if self.misaligned else ''}{f', {self.layout}' if self.layout is not None else ''}"
        return f"{self.kind}{' at ' + size if size else ''} x{self.seeds}{how}"

    def strides(self, i: int, spec: TensorSpec) -> tuple[int, ...]:
        """How input number `i` lies in memory."""
        if self.layout is not None and i in self.layout.strides:
            return self.layout.strides[i]
        return shapes.values(spec.stride, self.sizes)


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
    limit_bytes: all that a case needs, where its sizes are known; None: as many as there are.
    times_a_core: how many times the elements that a core of the host is given.
    candidate_bytes: what a candidate may allocate on its device.
    """

    limit_elements: int
    times_a_core: int = 1
    candidate_bytes: int = 0
    limit_bytes: int | None = None


def means(sub: Subgraph, device: str, most_bytes: int | None = None) -> Means:
    """What there is now; on a device, beside what its user has there. `most_bytes`: what judging may take, if not a
    quarter of what is free.
    """
    if device == "cpu":
        room = most_bytes or free_bytes() // _SHARE
        return Means(room // _WORKING_BYTES_PER_ELEMENT, limit_bytes=room)
    free = torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    room = most_bytes or free // _SHARE
    limit = room // _WORKING_BYTES_PER_ELEMENT_ON_DEVICE
    largest = max((shapes.storage_bytes(sub, sizes) for sizes in shapes.members(sub, limit, 0)), default=0)
    wanted = _LEAST_CANDIDATE_BYTES + _CANDIDATE_BYTES_PER_BYTE * largest
    return Means(limit, _TIMES_A_CORE, min(free // _SHARE, wanted), room)


def traced(sub: Subgraph, seed: int, given: Means) -> Mapping[str, int] | None:
    """The sizes it was traced at, or smaller ones of its class; None: it is too big for the memory there is."""
    if not sub.symbols and given.limit_bytes is not None:
        on_device = given.times_a_core > 1  # where fp64 sees all of it
        return {} if working_bytes(sub, {}, with_oracle=on_device) <= given.limit_bytes else None
    members = shapes.members(sub, given.limit_elements, seed)
    if not members or shapes.elements(sub, members[0]) > given.limit_elements:
        return None
    if shapes.storage_bytes(sub, members[0]) > _STORAGE_BYTES_PER_ELEMENT * given.limit_elements:
        return None
    return members[0]


def in_pieces(sub: Subgraph, given: Means) -> Mapping[str, int] | None:
    """The sizes it was traced at, if the candidate can be run on them, and eager and the oracle on slices; or None."""
    sizes = shapes.full(sub)
    if given.limit_bytes is None:
        return None
    own = 2 * shapes.storage_bytes(sub, sizes)  # shared with the candidate, and kept; its outputs, and ours of them
    slices = _WORKING_BYTES_PER_ELEMENT * slice_elements(shapes.elements(sub, sizes))
    return sizes if own + slices <= given.limit_bytes else None


def slice_elements(n_elements: int) -> int:
    """How many elements slices of so large a case have."""
    return min(SLICE_ELEMENTS, max(_LEAST_SLICE_ELEMENTS, n_elements // _SLICES))


def timed(sub: Subgraph, seed: int, given: Means, *, trusted: bool) -> Mapping[str, int] | None:
    """The sizes it is timed at: beside a trusted kernel only eager runs, which may fit where judging does not."""
    sizes = traced(sub, seed, given)
    whole = shapes.full(sub)
    if sizes == whole or not trusted or given.limit_bytes is None:
        return sizes
    needed = 2 * shapes.storage_bytes(sub, whole) + _most_at_once(sub, lambda spec: _n_bytes(spec, whole))
    return whole if needed <= given.limit_bytes else sizes


def groups(
    sub: Subgraph, seed: int, given: Means | None = None, *, brief: bool = False, adversarial: bool = False
) -> list[Group]:
    """The cases, the telling ones first. Empty: the task is too big for the memory there is. Where only eager and the
    oracle are, smaller members of its class are judged, and slices of it at full size.

    brief: smaller relatives are judged on inputs of every kind, and this one only on what its size may change.
    adversarial: for kernels that nobody knows, the kinds that trip up whoever counts on what is usual.
    """
    given = given or means(sub, "cpu")
    sizes = traced(sub, seed, given)
    slack = slack_at(sub, shapes.full(sub))
    whole = in_pieces(sub, given) if sizes != shapes.full(sub) else None
    sliced = [Group(whole, "normal", 1, slack, sampled=True, pieces=True)] if whole is not None else []
    if sizes is None:
        return sliced
    on_host = given.times_a_core == 1
    medium: Mapping[str, int] | None = sizes
    found: list[Group] = []
    if brief or (sub.symbols and on_host and shapes.elements(sub, sizes) > LARGE_ELEMENTS):
        slack = slack_at(sub, sizes)
        found.append(Group(sizes, "normal", 1, slack, repeat=True, sampled=True))
        medium = shapes.within(sub, sizes, RELATIVE_ELEMENTS) if sub.symbols else None
    if medium is not None:
        found += _at(sub, medium, given, full=True)
        if adversarial:
            found += _adversarial(sub, medium)
    for other in shapes.members(sub, given.limit_elements, seed)[1:]:
        found += _at(sub, other, given, full=False)
    return found + sliced


def _adversarial(sub: Subgraph, sizes: Mapping[str, int]) -> list[Group]:
    floats = any(s.dtype.startswith(("float", "bfloat", "complex")) for s in sub.inputs)
    if not floats or shapes.elements(sub, sizes) > RELATIVE_ELEMENTS:
        return []
    slack = slack_at(sub, sizes)
    return [Group(sizes, kind, 1, slack) for kind in ADVERSARIAL]


def slack_at(sub: Subgraph, sizes: Mapping[str, int]) -> float:
    """Of a single case there: outputs of a few elements are not pooled."""
    return UNPOOLED_SLACK if _smallest_output(sub, sizes) < SMALL_OUTPUT else 1.0


def _smallest_output(sub: Subgraph, sizes: Mapping[str, int]) -> int:
    return min((math.prod(shapes.values(s.shape, sizes)) for s in sub.output_specs), default=1)


def working_bytes(sub: Subgraph, sizes: Mapping[str, int], *, with_oracle: bool) -> int:
    """What judging one case takes: inputs twice, outputs three times, and the most that eager holds at once; or, beside
    eager's outputs, the most that the oracle holds, widened inputs among them.
    """

    outputs = sum(_n_bytes(s, sizes) for s in sub.output_specs)
    computed = _most_at_once(sub, lambda spec: _n_bytes(spec, sizes))
    if with_oracle:
        widened = sum(_n_bytes(s, sizes, wide=True) for s in sub.inputs)
        computed = outputs + widened + _most_at_once(sub, lambda spec: _n_bytes(spec, sizes, wide=True))
    return 2 * (shapes.storage_bytes(sub, sizes) - outputs) + 3 * outputs + computed


def _n_bytes(spec: TensorSpec, sizes: Mapping[str, int], *, wide: bool = False) -> int:
    dtype: torch.dtype = getattr(torch, spec.dtype)
    width = 8 if wide and dtype.is_floating_point else dtype.itemsize
    return int(math.prod(shapes.values(spec.shape, sizes))) * width


def _most_at_once(sub: Subgraph, n_bytes: Callable[[TensorSpec], int]) -> int:
    """The most bytes of computed values that are alive at the same time."""
    first = len(sub.inputs)
    last_use: dict[int, int] = {}
    for i, node in enumerate(sub.nodes):
        for value in refs((node.args, tuple(v for _, v in node.kwargs))):
            last_use[value] = i
    most = 0
    held: dict[int, int] = {}
    for i, node in enumerate(sub.nodes):
        outs = node.out if isinstance(node.out, tuple) else (node.out,)
        held[first + i] = 0 if node.target == "getitem" else sum(n_bytes(s) for s in outs if s is not None)
        most = max(most, sum(held.values()))
        for value in [v for v in held if last_use.get(v, -1) <= i and v not in sub.outputs]:
            del held[value]
    return most


def _at(sub: Subgraph, sizes: Mapping[str, int], given: Means, *, full: bool) -> list[Group]:
    total = shapes.elements(sub, sizes) // given.times_a_core
    smallest = _smallest_output(sub, sizes)
    pooled = POOLED_SEEDS if smallest < _FEW_ELEMENTS else -(-SMALL_OUTPUT // smallest)
    slack = UNPOOLED_SLACK if smallest < SMALL_OUTPUT else 1.0
    affordable = 1 + _POOLED_ELEMENTS // max(total, 1)
    found = _of_kinds(sub, sizes, total, min(pooled, affordable), slack, full=full)
    if pooled > affordable:
        found = [replace(g, slack=slack) for g in found]
    sampled = given.times_a_core == 1 and total > SAMPLED_ELEMENTS
    return [replace(g, sampled=sampled) for g in found]


def _of_kinds(
    sub: Subgraph, sizes: Mapping[str, int], total: int, pooled: int, slack: float, *, full: bool
) -> list[Group]:
    small = slack > 1.0
    if not full:
        found = [Group(sizes, "normal", 1, slack, repeat=True)]
        return [*found, Group(sizes, "nan", 1, slack)] if total <= 1 << 16 else found
    found = [Group(sizes, "normal", pooled, repeat=True)]
    if not any(s.dtype.startswith(("float", "bfloat", "complex")) for s in sub.inputs):
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
