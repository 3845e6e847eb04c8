"""Other layouts of the same inputs: what a program may hand to a module that was traced with tensors laid out plainly.

Eager takes them all, and gives the same values. A kernel that counts on rows that follow one another gives others.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from akg_dynamo.agents.verifier.shapes import memory_order, values
from akg_dynamo.core.types import TensorSpec

Shape = Sequence[int]
Stride = tuple[int, ...]
_MOST_PADDING = 5


@dataclass(frozen=True)
class Layout:
    """Strides for some of the inputs, by their numbers; the others lie as they were traced."""

    name: str
    strides: Mapping[int, Stride]

    def __str__(self) -> str:
        return f"{self.name} {', '.join(f'input {i} {list(s)}' for i, s in self.strides.items())}"


def _of_order(shape: Shape, order: Sequence[int]) -> Stride:
    """Without gaps, the last of `order` being the nearest in memory."""
    stride, step = [0] * len(shape), 1
    for d in reversed(order):
        stride[d] = step
        step *= max(shape[d], 1)
    return tuple(stride)


def _wide(shape: Shape) -> list[int]:
    """Dims with more than one element."""
    return [d for d, n in enumerate(shape) if n > 1]


def _transposed(shape: Shape, rng: random.Random) -> Stride | None:
    """Two dims swapped."""
    if len(_wide(shape)) < 2:
        return None
    a, b = rng.sample(_wide(shape), 2)
    order = list(range(len(shape)))
    order[a], order[b] = order[b], order[a]
    return _of_order(shape, order)


def _channels_last(shape: Shape, rng: random.Random) -> Stride | None:
    return _of_order(shape, (0, *range(2, len(shape)), 1)) if len(shape) in (4, 5) and shape[1] > 1 else None


def _stepped(shape: Shape, rng: random.Random) -> Stride | None:
    """Every second element of a tensor of twice the size."""
    return tuple(2 * s for s in _of_order(shape, range(len(shape)))) if _wide(shape) else None


def _cut(shape: Shape, rng: random.Random) -> Stride | None:
    """Columns of a wider tensor; no row begins where a vector would."""
    if len(shape) < 2 or not _wide(shape[:-1]):
        return None
    wider = [*shape[:-1], shape[-1] + rng.randrange(1, _MOST_PADDING + 1, 2)]
    return _of_order(wider, range(len(wider)))


def _broadcast(shape: Shape, rng: random.Random) -> Stride | None:
    """One dim has a single element, which is every one of it: stride 0."""
    if not _wide(shape):
        return None
    chosen = rng.choice(_wide(shape))
    single = [1 if d == chosen else n for d, n in enumerate(shape)]
    return tuple(0 if d == chosen else s for d, s in enumerate(_of_order(single, range(len(shape)))))


def _overlapping(shape: Shape, rng: random.Random) -> Stride | None:
    """Windows, each of which begins inside the one before."""
    if len(_wide(shape)) < 2:
        return None
    *_, outer, inner = _wide(shape)
    stride = list(_of_order(shape, range(len(shape))))
    stride[outer] = stride[inner] * -(-shape[inner] // 2)
    return tuple(stride)


_KINDS: dict[str, Callable[[Shape, random.Random], Stride | None]] = {
    "transposed": _transposed,
    "every second element": _stepped,
    "columns of a wider tensor": _cut,
    "broadcast (stride 0)": _broadcast,
    "overlapping windows": _overlapping,
    "channels last": _channels_last,
}


def layouts(
    specs: Mapping[int, TensorSpec], sizes: Mapping[str, int], rng: random.Random, *, most: int | None = None
) -> list[Layout]:
    """The layouts to try for these inputs: each kind for all of them at once; then each input alone in one of them, the
    others as they were. `most`: so many of them, at random.
    """
    shapes = {i: values(s.shape, sizes) for i, s in specs.items() if _is_plain(s, sizes)}
    found = []
    for name, kind in _KINDS.items():
        strides = {i: stride for i, shape in shapes.items() if (stride := kind(shape, rng)) is not None}
        if strides:
            found.append(Layout(name, strides))
    alone = []
    for i in shapes if len(shapes) > 1 else ():
        of_it = [(each.name, each.strides[i]) for each in found if i in each.strides]
        if of_it:
            name, stride = rng.choice(of_it)
            alone.append(Layout(name, {i: stride}))
    found += [each for each in alone if each not in found]
    return found if most is None else rng.sample(found, min(most, len(found)))


def _is_plain(spec: TensorSpec, sizes: Mapping[str, int]) -> bool:
    """Whether its elements lie one after another: what the task itself lays out otherwise stays as it is."""
    shape = values(spec.shape, sizes)
    return math.prod(shape) > 1 and memory_order(shape, values(spec.stride, sizes)) is not None
