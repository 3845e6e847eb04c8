"""Pooling: what a window sees at each of its positions, combined place by place.

    y[i] = max(x[2i - 1], x[2i], x[2i + 1])

Every place of the window is a value of its own (`tap`): x seen with the window's stride, from that place on, and a
neutral element where the window hangs over the edge. So a window is index arithmetic, in one loop over the results,
with whatever computes x before it and whatever is made of the result after it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

from akg_dynamo.agents.designer.calls import Call, NoRule, Result, rule
from akg_dynamo.agents.designer.prims import STILL, Slide
from akg_dynamo.agents.designer.sizes import Size
from akg_dynamo.agents.designer.values import V, iota, maximum, minimum, number, tap
from akg_dynamo.agents.designer.writer import identity
from akg_dynamo.fusion.ops import LARGEST_WINDOW


@dataclass(frozen=True)
class _Side:
    """A window along one dim of `length` elements: `size` places, `dilation` apart, the first `padding` before x.

    past: how many elements the last window may reach over the end, as far as is known.
    """

    length: Size
    size: int
    stride: int
    padding: int
    dilation: int
    past: int

    def slides(self) -> Iterator[Slide]:
        """Each of its places."""
        for k in range(self.size):
            start = k * self.dilation - self.padding
            yield Slide(self.stride, start, start < 0, self.past > (self.size - 1 - k) * self.dilation)


def _sides(c: Call, x: V) -> list[_Side]:
    sizes = c["kernel_size"]
    rank = int(c.name[c.name.index("pool") + len("pool")])
    given = [_per_dim(sizes, rank), _per_dim(c["stride"] or sizes, rank), _per_dim(c["padding"], rank)]
    dilation = _per_dim(c.get("dilation", 1), rank)
    sides = []
    for d, (size, stride, padding, apart) in enumerate(zip(*given, dilation, strict=True), len(x.shape) - rank):
        length, past = x.shape[d], ((c.shape[d] - 1) * stride + (size - 1) * apart + 1 - padding) - x.shape[d]
        if not isinstance(past, int):  # rounding up, the last window may begin at the last element, or padding
            past = padding + (stride - 1 if c["ceil_mode"] else 0)
        sides.append(_Side(length, size, stride, padding, apart, past))
    if math.prod(s.size for s in sides) > LARGEST_WINDOW:
        raise NoRule(f"{c.node.target}: a window of {'x'.join(str(s.size) for s in sides)}")
    return sides


def _per_dim(given: int | Sequence[int], rank: int) -> list[int]:
    listed = [given] if isinstance(given, int) else list(given)
    return listed * rank if len(listed) == 1 else listed


def _taps(c: Call, x: V, sides: Sequence[_Side], outside: float | int | bool) -> list[V]:
    still = [STILL] * (len(x.shape) - len(sides))
    return [tap(x, [*still, *moving], c.shape, outside) for moving in itertools.product(*(s.slides() for s in sides))]


@rule("max_pool2d_with_indices", "max_pool3d_with_indices", "max_pool2d", "max_pool3d")
def _max_pool(c: Call) -> Result:
    x = c.raw("self")
    return reduce(maximum, _taps(c, x, _sides(c, x), identity("max", x.dtype))), None


@rule("avg_pool2d", "avg_pool3d")
def _avg_pool(c: Call) -> Result:
    x = c.raw("self")
    if not x.is_float:
        raise NoRule(f"{c.node.target} of integers")
    sides = _sides(c, x)
    total = reduce(V.__add__, _taps(c, x, sides, 0))
    return total / _divisor(c, sides)


def _divisor(c: Call, sides: Sequence[_Side]) -> V:
    """How many elements each mean is of: those of the window that are elements, or padding where that counts."""
    if c["divisor_override"] is not None:
        return number(float(c["divisor_override"]), c.dtype)
    counted = bool(c["count_include_pad"])
    whole, varying = 1, []
    for d, side in enumerate(sides, len(c.shape) - len(sides)):
        if side.past <= (side.padding if counted else 0) and (counted or not side.padding):
            whole *= side.size
            continue
        start = iota(c.shape, d) * side.stride - side.padding
        end = minimum(start + side.size, side.length + side.padding if counted else side.length)
        varying.append((end - (start if counted else maximum(start, 0))).to(c.dtype))
    return reduce(V.__mul__, varying if whole == 1 and varying else [*varying, number(whole, c.dtype)])
