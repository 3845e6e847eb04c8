"""Which of several variants of a kernel to keep: few measurements, and the judge's word on what they choose.

A variant differs in its mapping (tile sizes, warps, what one program holds), never in what it computes. The first is
the cost model's guess. It is measured first, and often that is all: a kernel that runs at the memory's speed, or is
waited for by nobody because calling it takes longer, has nothing to gain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from akg_dynamo.agents.designer.device import device
from akg_dynamo.agents.verifier import shapes
from akg_dynamo.core.types import Candidate, Outcome, Subgraph, Target, Timing, Verdict

NOTICEABLE = 1.02  # less is noise as often as not, and not worth another judgement
_AT_THE_ROOF = 0.95
_IMPOSSIBLE = 1.1  # more than the memory gives: not all that was counted is read


def fastest(
    first: Candidate,
    verdict: Verdict,
    others: Sequence[Candidate],
    *,
    time: Callable[[Candidate], Timing | None],
    judge: Callable[[Candidate], Verdict],
) -> tuple[Candidate, Verdict]:
    """The fastest of the variants that is right, and the verdict on it.

    verdict: on the first, which is right and timed. The timing of another is left to be taken anew: the one that chose
    it flatters it.
    """
    assert verdict.timing is not None
    measured = [(timing.ratio, candidate) for candidate in others if (timing := time(candidate)) is not None]
    for ratio, candidate in sorted(measured, key=lambda m: -m[0]):
        if ratio < verdict.timing.ratio * NOTICEABLE:
            break
        found = judge(candidate)
        if found.outcome is Outcome.RIGHT:
            return candidate, found
    return first, verdict


def has_nothing_to_gain(sub: Subgraph, target: Target, timing: Timing) -> bool:
    """Whether a measured kernel is as fast as any variant could be: bound by memory, or by the host that calls it."""
    device_us = timing.kernel_device_us
    if not device_us:
        return False
    if device_us < timing.kernel_us / 2:
        return True
    share = bytes_moved(sub) / (device_us * 1e-6) / device(target.arch).bytes_s
    return _AT_THE_ROOF <= share <= _IMPOSSIBLE


def bytes_moved(sub: Subgraph) -> int:
    """Every input and output once, at the sizes seen first; what is broadcast counts as it lies in memory."""
    sizes = {s.name: s.hint for s in sub.symbols}
    total = 0
    for spec in (*sub.inputs, *sub.output_specs):
        shape = [n for n, s in zip(spec.shape, spec.stride, strict=True) if s != 0]
        elements = 1
        for size in shapes.values(shape, sizes):
            elements *= size
        total += elements * int(getattr(torch, spec.dtype).itemsize)
    return total
