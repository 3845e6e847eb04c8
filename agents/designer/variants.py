"""The tuner's candidates: the designs worth measuring for a subgraph, the best guess first.

    first, *others = variants(subgraph, target)
    one_by_one(subgraph, target)              the same, each made when it is asked for

The cost model chooses the first. The others move one thing away from it, in the phases that move most of the bytes:
smaller and larger tiles, fewer and more warps, rows held whole against rows in a loop, one phase against several.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from akg_dynamo.agents.designer.cuda import Mapping
from akg_dynamo.agents.designer.cuda_tiles import Knobs
from akg_dynamo.agents.designer.rules import design
from akg_dynamo.core.types import Design, SplitReason, Subgraph, Target

MOST = 6

_FIRST = Knobs()
# In the order in which they were seen to win on an H200.
_POINTWISE = (Knobs(warps=1), Knobs(warps=-1), Knobs(tile=-1), Knobs(tile=1), Knobs(tile=1, warps=-1))
_HELD = (Knobs(warps=1), Knobs(warps=-1), Knobs(whole=False), Knobs(tile=1), Knobs(whole=False, warps=-1))
_LOOPED = (Knobs(whole=True), Knobs(warps=1), Knobs(warps=-1), Knobs(tile=-1), Knobs(tile=1))
_TRIPS = (Knobs(warps=1), Knobs(warps=-1), Knobs(tile=1), Knobs(tile=-1), Knobs(tile=1, warps=-1))


def variants(sub: Subgraph, target: Target, numerics: str = "bounded") -> list[Design] | SplitReason:
    """The designs worth measuring, at most `MOST`; or why there is none. numerics: as in the options."""
    designs = one_by_one(sub, target, numerics)
    return designs if isinstance(designs, SplitReason) else list(designs)


def one_by_one(sub: Subgraph, target: Target, numerics: str = "bounded") -> Iterator[Design] | SplitReason:
    """The same: the first is wanted at once, the others only if it is worth measuring them."""
    if target.backend != "cuda":
        only = design(sub, target, numerics)
        return iter((only,)) if isinstance(only, Design) else only
    mapping = Mapping.of(sub, target, numerics)
    return mapping if isinstance(mapping, SplitReason) else _distinct(mapping)


def _distinct(mapping: Mapping) -> Iterator[Design]:
    found: list[Design] = []
    for candidate in _candidates(mapping):
        if candidate not in found:
            found.append(candidate)
            yield candidate
        if len(found) == MOST:
            break


def _candidates(mapping: Mapping) -> Iterator[Design]:
    yield mapping.design(_FIRST)
    for other in (mapping.apart(), mapping.together()):
        if other is not None:
            yield other.design(_FIRST)
    for step in _steps(mapping):
        yield mapping.design(step)


def _steps(mapping: Mapping) -> Sequence[Knobs]:
    """What is worth moving in the largest phase."""
    kind = mapping.kind()
    if kind == "trips":
        return _TRIPS
    return _POINTWISE if kind == "pointwise" else _HELD if kind == "held" else _LOOPED
