"""For a large subgraph: smaller ones whose kernels run the same device code, for the judge to try every input on."""

from __future__ import annotations

from collections.abc import Iterator

from akg_dynamo.agents.coder import by_rules
from akg_dynamo.agents.designer.rules import design
from akg_dynamo.agents.verifier.job import Relative
from akg_dynamo.agents.verifier.plan import LARGE_ELEMENTS, RELATIVE_ELEMENTS
from akg_dynamo.agents.verifier.shapes import elements
from akg_dynamo.agents.verifier.smaller import relatives
from akg_dynamo.core.errors import LoweringError, SketchError
from akg_dynamo.core.types import Candidate, SplitReason, Subgraph, Target

_MOST_ELEMENTS = (RELATIVE_ELEMENTS, 1 << 20, 1 << 22)
_LEAST_RATIO = 4


def relatives_of(
    sub: Subgraph, candidate: Candidate, target: Target, numerics: str = "bounded"
) -> tuple[Relative, ...]:
    """One, if there is one; none for a subgraph that is judged as it is, or whose kernel is of its size alone.

    numerics: what the candidate was written for.
    """
    if sub.symbols or target.backend != "cpu" or elements(sub, {}) <= LARGE_ELEMENTS:
        return ()
    for small in _sizes(sub):
        try:
            designed = design(small, target, numerics)
            if isinstance(designed, SplitReason):
                continue
            written = by_rules.write(small, designed, target, candidate.name, numerics=numerics)
        except (SketchError, LoweringError):
            continue
        if written.device_source == candidate.device_source:
            return (Relative(small, written),)
    return ()


def _sizes(sub: Subgraph) -> Iterator[Subgraph]:
    for most in _MOST_ELEMENTS:
        if elements(sub, {}) >= _LEAST_RATIO * most:
            yield from relatives(sub, most)
