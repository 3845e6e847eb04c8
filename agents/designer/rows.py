"""Rows that are held whole: one axis for all passes over a row, so that they share what costs much to compute.

    for k in range(0, n1, BN): s = s + reduce_sum(exp(load(x[i, k:k+BN]) - m), k)
    for k in range(0, n1, BN): store(exp(load(x[i, k:k+BN]) - m) / s -> y[i, k:k+BN])

becomes, when n1 is known,

    axis k = range(0, n1, BR)
    v = exp(load(x[i, k:k+BR]) - m)
    s = reduce_sum(v, k)
    store(v / s -> y[i, k:k+BR])
"""

from __future__ import annotations

from akg_dynamo.agents.designer.domain import Axis, Tile
from akg_dynamo.agents.designer.nests import Nest, substitute

LONGEST = 1 << 16
"""Longer rows would not stay in a core's second-level cache beside what they are computed from."""

_COSTLY = frozenset([
    "exp", "expm1", "exp2", "log", "log2", "log10", "log1p", "sin", "cos", "tan", "asin", "acos", "atan", "sinh",
    "cosh", "tanh", "asinh", "acosh", "atanh", "erf", "erfc", "lgamma", "sigmoid", "pow", "atan2", "hypot",
])  # fmt: skip


def hold_rows(nest: Nest) -> Axis | None:
    """The one inner axis of all passes from now on, if holding rows whole pays; then they share it."""
    loops = [group for group in nest.passes if group.inner]
    if nest.vector is not None or len(loops) < 2 or any(len(group.inner) != 1 for group in loops):
        return None
    axes = [group.inner[0] for group in loops]
    extent = axes[0].extent
    if not isinstance(extent, int) or extent > LONGEST or any(a.extent != extent for a in axes):
        return None
    if any(m.chunk is not None for m in nest.members):
        return None
    row = Axis(extent)
    costly: set[int] = set()
    shared = False
    for group, axis in zip(loops, axes, strict=True):
        mine: set[int] = set()
        for member in group.members:
            mine |= _costly(substitute(member.tile, {axis: row}, nest.tiles), row)
        shared |= not costly.isdisjoint(mine)
        costly |= mine
    if not shared:
        return None
    for group, axis in zip(loops, axes, strict=True):
        for member in group.members:
            member.rename({axis: row}, nest.tiles)
        group.inner[:] = [row]
    return row


def _costly(root: Tile, row: Axis) -> set[int]:
    """The values along the row that take long to compute, by identity: equal ones are the same object."""
    found: set[int] = set()
    seen: set[int] = set()
    stack = [root]
    while stack:
        tile = stack.pop()
        if id(tile) not in seen:
            seen.add(id(tile))
            stack.extend(tile.below)
            if tile.kind == "op" and tile.attr in _COSTLY and row in tile.axes:
                found.add(id(tile))
    return found
