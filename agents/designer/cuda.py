"""The mapping for GPUs: a subgraph in, sketches out whose loops suit one.

The algorithms are those of `decompose`; what differs from a CPU is which phases there are (`cuda_schedule`), how much a
program holds at once (`cuda_tiles`), and how that is written down (`cuda_emit`).
"""

from __future__ import annotations

from akg_dynamo.agents.designer.calls import NoRule
from akg_dynamo.agents.designer.cuda_emit import emit
from akg_dynamo.agents.designer.cuda_schedule import CudaScheduler
from akg_dynamo.agents.designer.cuda_tiles import Knobs, plan
from akg_dynamo.agents.designer.decompose import decompose
from akg_dynamo.agents.designer.device import device
from akg_dynamo.agents.designer.prepare import prepared
from akg_dynamo.agents.designer.sizes import SizeFacts
from akg_dynamo.core.types import Design, SplitReason, SplitReasonType, Subgraph, Target


def design(sub: Subgraph, target: Target) -> Design | SplitReason:
    """The first guess for a subgraph."""
    try:
        outputs = prepared(decompose(sub))
    except NoRule as reason:
        return SplitReason(SplitReasonType.DESIGN, str(reason))
    facts, gpu = SizeFacts.of(sub.symbols), device(target.arch)
    schedule = CudaScheduler(facts, gpu).schedule(outputs)
    plans = [plan(nest, facts, gpu, Knobs()) for nest in schedule.nests]
    return emit(schedule, plans, facts, "kernel")
