"""The mapping for GPUs: a subgraph in, sketches out whose loops suit one.

The algorithms are those of `decompose`; what differs from a CPU is which phases there are (`cuda_schedule`), how much a
program holds at once (`cuda_tiles`), and how that is written down (`cuda_emit`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from akg_dynamo.agents.designer.calls import NoRule
from akg_dynamo.agents.designer.cuda_emit import emit
from akg_dynamo.agents.designer.cuda_schedule import CudaScheduler
from akg_dynamo.agents.designer.cuda_tiles import Knobs, plan
from akg_dynamo.agents.designer.decompose import decompose
from akg_dynamo.agents.designer.device import Device, device
from akg_dynamo.agents.designer.nests import coefficients, nest_accesses
from akg_dynamo.agents.designer.prepare import prepared
from akg_dynamo.agents.designer.prims import Prim, Storage
from akg_dynamo.agents.designer.rolled import loop_of, schedule_loop
from akg_dynamo.agents.designer.schedule import Schedule
from akg_dynamo.agents.designer.sizes import SizeFacts, product
from akg_dynamo.core.types import Design, SplitReason, SplitReasonType, Subgraph, Target

_LARGE = 0.3  # of the largest phase's bytes: phases of that size are tuned with it
_BIAS = 1.3  # how much dearer several phases have to look before one is tried, and the other way round


def design(sub: Subgraph, target: Target, numerics: str = "bounded") -> Design | SplitReason:
    """The first guess for a subgraph."""
    mapping = Mapping.of(sub, target, numerics)
    return mapping if isinstance(mapping, SplitReason) else mapping.design(Knobs())


@dataclass(frozen=True)
class Mapping:
    """A subgraph's phases on a GPU: what every design of them has in common."""

    outputs: Sequence[tuple[Prim, Storage]]
    facts: SizeFacts
    device: Device
    schedule: Schedule

    @staticmethod
    def of(sub: Subgraph, target: Target, numerics: str = "bounded") -> Mapping | SplitReason:
        """The phases as the cost model would have them, or why there are none."""
        facts, gpu = SizeFacts.of(sub.symbols), device(target.arch)
        loop = loop_of(sub)
        try:
            if loop is not None:
                found = schedule_loop(sub, loop, gpu, numerics)
                if isinstance(found, str):
                    return SplitReason(SplitReasonType.DESIGN, found)
                return Mapping((), facts, gpu, found)
            outputs = prepared(decompose(sub, numerics))
        except NoRule as reason:
            return SplitReason(SplitReasonType.DESIGN, str(reason))
        return Mapping(outputs, facts, gpu, CudaScheduler(facts, gpu).schedule(outputs))

    def design(self, knobs: Knobs) -> Design:
        """The sketch of these phases, the large ones tiled as the knobs say."""
        moved = [self._moved(k) for k in range(len(self.schedule.nests))]
        read = Counter(s for nest in self.schedule.nests for s in {a.storage for a in nest_accesses(nest)})
        again = frozenset(s for s, phases in read.items() if phases > 1)
        plans = [
            plan(nest, self.facts, self.device, knobs if m >= _LARGE * max(moved) else Knobs(), again)
            for nest, m in zip(self.schedule.nests, moved, strict=True)
        ]
        return emit(self.schedule, plans, self.facts, "kernel")

    def apart(self) -> Mapping | None:
        """The same with more phases, where that makes a difference."""
        return self._with_bias(1 / _BIAS)

    def together(self) -> Mapping | None:
        """The same with fewer phases, where that makes a difference."""
        return self._with_bias(_BIAS)

    def _with_bias(self, bias: float) -> Mapping | None:
        if not self.outputs:  # a loop is one phase
            return None
        schedule = CudaScheduler(self.facts, self.device, bias).schedule(self.outputs)
        if len(schedule.nests) == len(self.schedule.nests):
            return None
        return Mapping(self.outputs, self.facts, self.device, schedule)

    def kind(self) -> str:
        """What the largest phase is: "pointwise", a reduction whose rows are "held", a "looped" one, or "trips"."""
        moved = [self._moved(k) for k in range(len(self.schedule.nests))]
        nest = self.schedule.nests[moved.index(max(moved))]
        if nest.trips is not None:
            return "trips"
        found = plan(nest, self.facts, self.device, Knobs())
        if not found.bands:
            return "pointwise"
        return "held" if all(b.whole for b in found.bands.values()) else "looped"

    def _moved(self, number: int) -> int:
        """The bytes a phase reads and writes, each tensor once."""
        seen: dict[Storage, int] = {}
        for access in nest_accesses(self.schedule.nests[number]):
            elements = self.facts.value(product(a.extent for a in coefficients(access)))
            seen[access.storage] = max(seen.get(access.storage, 0), elements * access.storage.dtype.size_bytes)
        return sum(seen.values())
