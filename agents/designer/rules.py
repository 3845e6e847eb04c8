"""The Designer by rules: a subgraph in, a sketch and its bindings out.

    design = design(subgraph, Target())
    print(to_text(design.sketch))

Four steps, a module each: `decompose` (ATen operators to primitive values), `domain` (values to expressions over axes),
`schedule` (which loops compute what), `emit` (the sketch).
"""

from __future__ import annotations

from akg_dynamo.agents.designer import cuda
from akg_dynamo.agents.designer.calls import NoRule
from akg_dynamo.agents.designer.decompose import decompose, supported
from akg_dynamo.agents.designer.emit import emit
from akg_dynamo.agents.designer.schedule import Scheduler
from akg_dynamo.agents.designer.sizes import SizeFacts
from akg_dynamo.core.types import Design, SplitReason, SplitReasonType, Subgraph, Target


def design(sub: Subgraph, target: Target, numerics: str = "bounded") -> Design | SplitReason:
    """The sketch for a subgraph, or why there is none (an operator, or a form of one, without a rule).

    numerics: as in the options; "eager" keeps eager's rounding points.
    """
    if target.backend == "cuda":
        return cuda.design(sub, target, numerics)
    try:
        outputs = decompose(sub, numerics)
    except NoRule as reason:
        return SplitReason(SplitReasonType.DESIGN, str(reason))
    facts = SizeFacts.of(sub.symbols)
    schedule = Scheduler(facts).schedule(outputs)
    return emit(schedule, facts, "kernel")


__all__ = ["design", "supported"]
