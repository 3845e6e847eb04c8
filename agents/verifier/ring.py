"""Data sets for timed calls: many draws of the inputs, laid out alike, and made new before they are used again.

A run of calls visits each set once at most, and before every run the sets it will visit are mixed with one another: the
judge swaps pieces of rows, so that no call ever finds an input that was seen before, at that address or at any other.
Whoever answers by address, or by a few of the elements, answers wrong; whoever looks at all of them gains nothing. What
a program keeps from call to call, its parameters, is the same for all sets.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from typing import Any

import torch

from akg_dynamo.agents.verifier import plan
from akg_dynamo.agents.verifier.arena import ALIGN_BYTES, GUARD_BYTES, Buffers, typed
from akg_dynamo.agents.verifier.case import Case
from akg_dynamo.agents.verifier.shapes import storage_elements, values
from akg_dynamo.agents.verifier.values import Values
from akg_dynamo.core.types import TensorSpec

_DRAWS = 8  # the other sets begin as rotations of these
_FIRST_NUMBER = 1_000_000  # other inputs than those judged
_MIXED_ELEMENTS = 1 << 14  # of one input, in one go


class Ring:
    """Sets of inputs and places for outputs, in one arena; what the inputs are, this process knows by itself."""

    def __init__(self, judged: Values, group: plan.Group, n_sets: int, arena: Buffers) -> None:
        self.judged = judged
        self.group = group
        self.n_sets = n_sets
        self.arena = arena
        self.fixed = judged.fixed(group, _FIRST_NUMBER, arena.device)
        self.inputs, self.outputs, self.step = layout(judged, group, self.fixed.keys())
        arena.reset()
        for i in self.fixed:
            self.inputs[i]["at"] = arena.reserve(_n_bytes(self.inputs[i]))
        self.first = arena.reserve(n_sets * self.step)
        arena.commit()
        arena.bytes[: arena.used].fill_(0xFF)
        self.rng = random.Random(f"{judged.job.seed}/ring")
        self.private = [self._draw(i) for i in range(len(self.inputs))]
        self.shared = {i: self._rows(spec) for i, spec in enumerate(self.inputs) if i not in self.fixed}
        for i, flat in self.fixed.items():
            typed(arena.bytes, self.inputs[i]["at"], flat.numel(), flat.dtype).copy_(flat)
        for i, rows in self.shared.items():
            rows.copy_(self.private[i])

    def _draw(self, i: int) -> torch.Tensor:
        """That input of every set, a row each: of this process alone."""
        if i in self.fixed:
            return self.fixed[i].expand(self.n_sets, -1)
        device, n_draws, rng = self.arena.device, min(_DRAWS, self.n_sets), self.rng
        drawn = [self.judged.draw(i, self.group, rng, device) for _ in range(n_draws)]
        n = drawn[0].numel()
        rows = torch.empty(self.n_sets, n, dtype=drawn[0].dtype, device=device)
        for row in range(self.n_sets):
            flat = drawn[row % n_draws]
            rows[row] = flat if row < n_draws or n < 2 else flat.roll(rng.randrange(n))
        return rows

    def _rows(self, spec: dict[str, Any]) -> torch.Tensor:
        dtype: torch.dtype = getattr(torch, spec["dtype"])
        width = dtype.itemsize
        whole = typed(self.arena.bytes, 0, len(self.arena.bytes) // width, dtype)
        at = whole.storage_offset() + (self.first + spec["offset"]) // width
        return whole.as_strided((self.n_sets, spec["elements"]), (self.step // width, 1), at)

    def message(self) -> dict[str, Any]:
        """How a worker finds the sets."""
        sizes = self.group.sizes
        return {
            "first": self.first,
            "step": self.step,
            "sets": self.n_sets,
            "inputs": self.inputs,
            "outputs": self.outputs,
            "case": {"symbols": [sizes[s.name] for s in self.judged.sub.symbols]},
        }

    def freshen(self, first: int, count: int) -> None:
        """Mix the sets of one run with one another."""
        rng, rows = self.rng, slice(first, first + count)
        for i, shared in self.shared.items():
            mine = self.private[i][rows]
            n = mine.shape[1]
            if n == 0 or count == 0:
                continue
            if n == 1:
                changed = [slice(0, 1)]
                mine.copy_(mine.roll(rng.randrange(count), 0))
            else:
                width = rng.randint(max(1, min(n // 4, _MIXED_ELEMENTS)), min(n // 2, 2 * _MIXED_ELEMENTS))
                a = rng.randint(0, n - 2 * width)
                b = rng.randint(a + width, n - width)
                changed = [slice(a, a + width), slice(b, b + width)]
                left, right = mine[:, changed[0]].clone(), mine[:, changed[1]].clone()
                mine[:, changed[0]] = right.roll(rng.randrange(count), 0)
                mine[:, changed[1]] = left.roll(rng.randrange(count), 0)
            for columns in changed:
                shared[rows, columns] = mine[:, columns]

    def case(self, row: int) -> Case:
        """One set as the judge of values knows it."""
        at = self.first + row * self.step
        offsets = [spec.get("at", at + spec["offset"]) for spec in self.inputs]
        places = [[(at + spec["offset"], _n_bytes(spec)) for spec in self.outputs]]
        return Case(self.group, row, self.arena, [p[row] for p in self.private], offsets, places, {})

    def left(self, row: int) -> list[torch.Tensor]:
        """What lies at a set's places for outputs now, byte by byte."""
        at = self.first + row * self.step
        found = []
        for spec in self.outputs:
            start = at + spec["offset"]
            found.append(self.arena.bytes[start : start + _n_bytes(spec)].clone())
        return found


def layout(
    judged: Values, group: plan.Group, fixed: Collection[int] = ()
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], int]:
    """Where the inputs and the outputs of a set lie in it, each between guard zones; and how long a set is. Inputs that
    are `fixed` lie outside.
    """
    top = 0

    def place(spec: TensorSpec, *, inside: bool = True) -> dict[str, Any]:
        nonlocal top
        shape, stride = values(spec.shape, group.sizes), values(spec.stride, group.sizes)
        n = storage_elements(shape, stride)
        top += GUARD_BYTES
        top += -top % ALIGN_BYTES
        found = {"offset": top, "elements": n, "dtype": spec.dtype, "shape": shape, "stride": stride}
        top += _n_bytes(found) if inside else 0
        return found

    inputs = [place(s, inside=i not in fixed) for i, s in enumerate(judged.sub.inputs)]
    outputs = [place(s) for s in judged.specs]
    top += GUARD_BYTES
    return inputs, outputs, top + -top % ALIGN_BYTES


def _n_bytes(spec: dict[str, Any]) -> int:
    dtype: torch.dtype = getattr(torch, spec["dtype"])
    return int(spec["elements"]) * dtype.itemsize
