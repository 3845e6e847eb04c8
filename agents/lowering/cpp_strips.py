"""Loops over rows that update tiles of columns: turned inside out, a strip of rows at a time.

Row by row, every vector of a tile is loaded and stored once for each row:

    for r: for each vector of j: m[j] = maximum(m[j], x[r, j])

In strips the tile's vectors stay in registers for several rows, which are few enough that all of them stay in cache:

    for strip: for each vector of j: { v = m[j]; for r in strip: v = maximum(v, x[r, j]); m[j] = v; }
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from akg_dynamo.agents.lowering.cpp_leaf import LeafEmitter, Registers
from akg_dynamo.agents.lowering.cpp_ops import Reg
from akg_dynamo.agents.lowering.index import c_name, c_text
from akg_dynamo.agents.lowering.ir import Loop, Segment, SetVariable, Variable
from akg_dynamo.agents.lowering.schedule import Leaf, Schedule
from akg_dynamo.agents.sketch.ast import DType

if TYPE_CHECKING:
    from akg_dynamo.agents.lowering.cpp_emit import BlockEmitter

_ROWS = 8  # of a strip: more lines of one column may share a set of the first-level cache than it has ways
_SCALAR_COST = 4  # what a row computes once is computed again for each vector


def strip_of(loop: Loop, schedule: Schedule) -> tuple[Segment, Leaf] | None:
    """The one innermost loop of a sequential loop that does nothing but update tiles lane by lane."""
    block = loop.block
    live = [i for i in block.items if isinstance(i, Loop) or schedule.plans[i].leaves]
    if loop.axis is not None or block.axes or block.declared or len(live) != 1 or isinstance(live[0], Loop):
        return None
    segment = live[0]
    plan = schedule.plans[segment]
    if plan.vector is None or len(plan.leaves) != 1 or plan.leaves[0].path != (plan.vector,):
        return None
    leaf = plan.leaves[0]
    for sink in leaf.sinks:
        if (
            not isinstance(sink, SetVariable)
            or sink.variable.axes != (plan.vector,)
            or sink.variable.dtype is DType.BOOL
        ):
            return None
        for value in schedule.closure(sink):
            if schedule.located(value) and value.home is segment:
                return None
            if value.access is not None and value.access.tensor.name in schedule.mutable:
                return None
            if plan.vector not in value.axes and schedule.cost(value) > _SCALAR_COST:
                return None
    return segment, leaf


def emit_strips(blocks: BlockEmitter, loop: Loop, segment: Segment, leaf: Leaf, registers: Registers) -> None:
    """Writes the loop in strips."""
    source, name = loop.source, c_name(loop.source.var)
    strip, end = f"{name}_block", f"{name}_end"
    start, stop = c_text(source.start, {}), c_text(source.stop, {})
    blocks.ranges.loops[source.var] = (source.start, source.stop)
    blocks.line(f"for (int64_t {strip} = {start}; {strip} < {stop}; {strip} += {_ROWS}) {{")
    blocks.depth += 1
    blocks.line(f"const int64_t {end} = min2<int64_t>({strip} + {_ROWS}, {stop});")
    plan = blocks.schedule.plans[segment]
    assert plan.vector is not None
    emitter = LeafEmitter(blocks, plan, registers, [], set())
    emitter.enter(leaf, plan.vector)
    updated = [sink.variable for sink in leaf.sinks if isinstance(sink, SetVariable)]
    held = dict.fromkeys(updated)
    for sink in leaf.sinks:
        for value in blocks.schedule.closure(sink):
            if isinstance(value.data, Variable) and value.data.axes == (plan.vector,):
                held[value.data] = None

    def write() -> None:
        for variable in held:
            reg = blocks.variables[variable].read(plan.vector)
            local = f"{c_name(variable.c_name)}_held"
            const = "" if variable in updated else "const "
            blocks.line(f"{const}{reg.c_type} {local} = {reg.text};")
            emitter.held[variable] = Reg(local, reg.dtype, True, reg.mask_bytes)
        blocks.line("#pragma GCC unroll 4")
        blocks.line(f"for (int64_t {name} = {strip}; {name} < {end}; {name}++) {{")
        blocks.depth += 1
        emitter.body(leaf.sinks, dict(registers))
        blocks.depth -= 1
        blocks.line("}")
        for variable in updated:
            blocks.line(blocks.variables[variable].write(emitter.held[variable], plan.vector))

    emitter.lanes(plan.vector, 1, write)
    blocks.depth -= 1
    blocks.line("}")
