"""Rows of a large case on their own: where they can be computed without the others, fp64 need not see them all.

Every element of the kernel's output is compared with eager's. The oracle is evaluated on some slices of the first dim,
those where the kernel is furthest from eager among them: how far apart the two are is then known everywhere, and the
contract is checked where that is most. That a slice can be computed on its own is seen by eager, which must give the
same for it alone as within the whole.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from akg_dynamo.agents.verifier.numerics import furthest
from akg_dynamo.agents.verifier.shapes import elements
from akg_dynamo.agents.verifier.smaller import resized
from akg_dynamo.agents.verifier.truth import REFUSALS, Truth
from akg_dynamo.core.types import Subgraph

Tensors = Sequence[torch.Tensor]
_SLICE_ELEMENTS = 1 << 20
_FEWEST_SLICES = 4
_SAME_ULPS = 64  # of the largest value: eager rounds differently at the ends of its vectors and of its threads' shares


@dataclass(frozen=True)
class Slicing:
    """Slices of `rows` of `extent` rows: what computes one, and which inputs are cut along their first dim."""

    truth: Truth
    sizes: Mapping[str, int]
    extent: int
    rows: int
    cut: tuple[bool, ...]

    def inputs(self, views: Tensors, start: int) -> list[torch.Tensor]:
        """What the slice that begins at row `start` is computed from."""
        return [v.narrow(0, start, self.rows) if c else v for v, c in zip(views, self.cut, strict=True)]

    def outputs(self, whole: Tensors, start: int) -> tuple[torch.Tensor, ...]:
        """That slice of each output."""
        return tuple(o.narrow(0, start, self.rows) for o in whole)

    def starts(self, kernel: Tensors, eager: Tensors, rng: random.Random) -> list[int]:
        """The slices to look at: both ends, one anywhere, and for each output where it is furthest from eager's."""
        last = self.extent - self.rows
        found = {0, last, rng.randint(0, last)}
        for k, e in zip(kernel, eager, strict=True):
            found.add(min(furthest(k, e)[0], last))
        return sorted(found)


def slicing(sub: Subgraph, numerics: str, sizes: Mapping[str, int], views: Tensors, eager: Tensors) -> Slicing | None:
    """How these outputs of eager's can be computed in slices; None if they cannot."""
    ranks = {o.dim() for o in eager}
    extents = {o.shape[0] if o.dim() else 1 for o in eager}
    extent = extents.pop()
    rows = max(1, extent * _SLICE_ELEMENTS // max(elements(sub, sizes), 1))
    cut = tuple(v.dim() >= max(ranks) and v.shape[0] == extent for v in views)
    if extents or not any(cut) or rows * _FEWEST_SLICES > extent:
        return None
    for program, smaller in _programs(sub, sizes, extent, rows):
        found = Slicing(Truth(program, numerics), smaller, extent, rows, cut)
        try:
            alone = found.truth.eager(found.inputs(views, rows), smaller)
        except REFUSALS:
            continue
        if all(_same(a, b) for a, b in zip(alone, found.outputs(eager, rows), strict=True)):
            return found
    return None


def _programs(
    sub: Subgraph, sizes: Mapping[str, int], extent: int, rows: int
) -> Iterator[tuple[Subgraph, dict[str, int]]]:
    if sub.symbols:
        named = {s.name: rows for s in sub.symbols if sizes[s.name] == extent}
        yield sub, {**sizes, **named}
        return
    yield sub, {}  # one that names no sizes takes any number of rows
    yield resized(sub, {extent: rows}), {}


def _same(alone: torch.Tensor, within: torch.Tensor) -> bool:
    if alone.shape != within.shape or alone.dtype != within.dtype:
        return False
    if not alone.is_floating_point():
        return torch.equal(alone, within)
    allowed = _SAME_ULPS * torch.finfo(alone.dtype).eps
    largest = float(within.abs().nan_to_num(0.0, 0.0, 0.0).amax()) if within.numel() else 0.0
    return torch.allclose(alone, within, rtol=allowed, atol=allowed * largest, equal_nan=True)
