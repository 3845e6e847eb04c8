"""Rows of a large case on their own: where they can be computed without the others, fp64 need not see them all.

Every element of the kernel's output is compared with eager's. The oracle is evaluated on some slices of the first dim,
those where the kernel is furthest from eager among them: how far apart the two are is then known everywhere, and the
contract is checked where that is most. That a slice can be computed on its own is seen by eager, which must give the
same for it alone as within the whole.

Where not even eager can be asked for the whole, slices are all that is compared, as many as there is time for; that
they can be computed alone is then seen on blocks of a few.
"""

from __future__ import annotations

import functools
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from akg_dynamo.agents.verifier.numerics import Expected, furthest
from akg_dynamo.agents.verifier.plan import SLICE_ELEMENTS, slice_elements
from akg_dynamo.agents.verifier.shapes import elements, values
from akg_dynamo.agents.verifier.smaller import resized
from akg_dynamo.agents.verifier.truth import REFUSALS, Truth
from akg_dynamo.core.types import Subgraph

Tensors = Sequence[torch.Tensor]
_FEWEST_SLICES = 4
_BLOCK = 3  # slices, to see whether the middle one can be computed alone
_MOST_S = 10.0  # of comparing slices of what cannot be compared as a whole
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

    def anywhere(self, rng: random.Random) -> list[int]:
        """Slices that together are all of it: both ends, and then the others in any order."""
        last = self.extent - self.rows
        others = list(range(self.rows, last, self.rows))
        rng.shuffle(others)
        return [0, last, *others]


@dataclass
class Sliced:
    """A large case, and how it can be cut. eager: its outputs; None: there is no room for all of them.

    said: what was compared with fp64, once it was.
    """

    eager: tuple[torch.Tensor, ...] | None
    views: list[torch.Tensor]
    cut: Slicing
    said: str = field(default="")

    def parts(
        self, kernel: Tensors, rng: random.Random
    ) -> Iterator[tuple[int, tuple[torch.Tensor, ...], list[Expected], Callable[[], tuple[torch.Tensor, ...]]]]:
        """For each slice to look at: where it begins, the kernel's outputs, and what they are held to."""
        cut, started, done = self.cut, time.perf_counter(), 0
        starts = cut.anywhere(rng) if self.eager is None else cut.starts(kernel, self.eager, rng)
        for start in starts:
            if self.eager is None and done >= _FEWEST_SLICES and time.perf_counter() - started > _MOST_S:
                break
            views = cut.inputs(self.views, start)
            eager = cut.truth.eager(views, cut.sizes) if self.eager is None else cut.outputs(self.eager, start)
            absolute = functools.cache(functools.partial(cut.truth.absolute, views, cut.sizes))
            yield start, cut.outputs(kernel, start), cut.truth.expected(eager, views, cut.sizes), absolute
            done += 1
        whole = f" of {len(starts)}" if self.eager is None else ""
        self.said = f"{done}{whole} slices of {cut.rows} of its {cut.extent} rows"


def slicing(sub: Subgraph, numerics: str, sizes: Mapping[str, int], views: Tensors, eager: Tensors) -> Slicing | None:
    """How these outputs of eager's can be computed in slices; None if they cannot."""
    ranks = {o.dim() for o in eager}
    extents = {o.shape[0] if o.dim() else 1 for o in eager}
    extent = extents.pop()
    rows = max(1, extent * SLICE_ELEMENTS // max(elements(sub, sizes), 1))
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


def blind_slicing(sub: Subgraph, numerics: str, sizes: Mapping[str, int], views: Tensors) -> Slicing | None:
    """The same where eager cannot be asked for the whole: seen on a block at either end."""
    shapes = [values(s.shape, sizes) for s in sub.output_specs]
    extents = {shape[0] if shape else 1 for shape in shapes}
    extent = extents.pop()
    n = elements(sub, sizes)
    rows = max(1, extent * slice_elements(n) // max(n, 1))
    cut = tuple(v.dim() >= max(map(len, shapes)) and v.shape[0] == extent for v in views)
    if extents or not any(cut) or rows * _FEWEST_SLICES > extent:
        return None
    pairs = zip(_programs(sub, sizes, extent, rows), _programs(sub, sizes, extent, _BLOCK * rows), strict=True)
    for (program, smaller), (of_block, of_block_sizes) in pairs:
        found = Slicing(Truth(program, numerics), smaller, extent, rows, cut)
        block = Slicing(Truth(of_block, numerics), of_block_sizes, extent, _BLOCK * rows, cut)
        try:
            if all(_is_alone(found, block, views, start) for start in (0, extent - _BLOCK * rows)):
                return found
        except REFUSALS:
            continue
    return None


def _is_alone(one: Slicing, block: Slicing, views: Tensors, start: int) -> bool:
    within = block.truth.eager(block.inputs(views, start), block.sizes)
    alone = one.truth.eager(one.inputs(views, start + one.rows), one.sizes)
    return all(_same(a, w.narrow(0, one.rows, one.rows)) for a, w in zip(alone, within, strict=True))


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
