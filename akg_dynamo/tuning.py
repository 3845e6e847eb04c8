"""Which of several variants of a kernel to keep: few measurements, and the judge's word on what they choose.

A variant differs in its mapping (tile sizes, warps, what one program holds), never in what it computes. The first is
the cost model's guess. It is measured first, and often that is all: a kernel that runs at the memory's speed, or is
waited for by nobody because calling it takes longer, has nothing to gain; and what one of a hundred kernels could gain
at most is not worth the wait of the first call. The variants of the others race each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch

from akg_dynamo.agents.designer.device import device
from akg_dynamo.agents.verifier import shapes
from akg_dynamo.core.types import Candidate, Outcome, Subgraph, Target, Timing, Verdict

NOTICEABLE = 1.02  # less is noise as often as not, and not worth another judgement
_WORTH_A_JUDGEMENT = 0.0025  # of the time of all kernels of a graph
_WORTH_TUNING = 0.02
_AT_THE_ROOF = 0.95
_IMPOSSIBLE = 1.1  # more than the memory gives: not all that was counted is read
_LAUNCH_US = 1.5  # on the device, of a kernel that does nothing


def fastest(
    first: Candidate,
    verdict: Verdict,
    others: Sequence[Candidate],
    *,
    race: Callable[[Sequence[Candidate]], Sequence[float]],
    judge: Callable[[Candidate], Verdict],
    share: float = 1.0,
) -> tuple[Candidate, Verdict]:
    """The fastest of the variants that is right, and the verdict on it.

    verdict: on the first, which is right and timed. The timing of another is left to be taken, beside eager.
    race: what a call of the first costs, and of each of the others; nothing where that cannot be said.
    share: of the time of a graph's kernels, the first one's.
    """
    own, *rest = race(others) or [0.0]
    for cost, candidate in sorted(zip(rest, others, strict=False), key=lambda pair: pair[0]):
        if own < cost * NOTICEABLE or share * (1 - cost / own) < _WORTH_A_JUDGEMENT:
            break
        found = judge(candidate)
        if found.outcome is Outcome.RIGHT:
            return candidate, found
    return first, verdict


class Shares:
    """What each kernel of a graph takes of the time of all of them, told while they are timed, the largest first:
    those that are not timed yet count with what their bytes take at least.
    """

    def __init__(self, kernels: Iterable[tuple[Subgraph, Target, int]]) -> None:
        """`kernels`: each with how often the graph has it."""
        self._uses: dict[str, int] = {}
        self._us: dict[str, float] = {}
        for sub, target, uses in kernels:
            self._uses[sub.digest] = uses
            self._us[sub.digest] = uses * _least_us(sub, target)

    def add(self, sub: Subgraph, timing: Timing) -> None:
        """Take in what one of them takes."""
        self._us[sub.digest] = self._uses[sub.digest] * (timing.kernel_device_us or timing.kernel_us)

    def of(self, sub: Subgraph) -> float:
        """The share of one that has been timed."""
        return self._us[sub.digest] / sum(self._us.values())

    def worth_tuning(self, sub: Subgraph, target: Target, timing: Timing) -> bool:
        """Whether the most that a faster variant could gain would show."""
        if has_nothing_to_gain(sub, target, timing):
            return False
        taken_us = timing.kernel_device_us or timing.kernel_us
        least_us = _least_us(sub, target) + _LAUNCH_US if timing.kernel_device_us else 0.0
        if _least_us(sub, target) > _IMPOSSIBLE * taken_us:
            least_us = _LAUNCH_US
        return self.of(sub) * (taken_us - least_us) / taken_us >= _WORTH_TUNING


def _least_us(sub: Subgraph, target: Target) -> float:
    """What moving the bytes takes."""
    return bytes_moved(sub) / device(target.arch).bytes_s * 1e6


def has_nothing_to_gain(sub: Subgraph, target: Target, timing: Timing) -> bool:
    """Whether a measured kernel is as fast as any variant could be: bound by memory, or by the host that calls it."""
    device_us = timing.kernel_device_us
    if not device_us:
        return False
    if device_us < timing.kernel_us / 2:
        return True
    share = _least_us(sub, target) / device_us
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
