"""Which parts of a sketch become one launch, and which of its loops become program ids.

Top-level loops are phases. What passes from one to the next in a name, rather than in a tensor, has no place to be in
between: such phases become one launch of a single program, which runs them in order.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from akg_dynamo.agents.lowering.ir import (
    Access,
    Axis,
    Block,
    IndexAt,
    IndexSpan,
    Loop,
    Program,
    Segment,
    SetVariable,
    StoreTo,
    Value,
    Variable,
)
from akg_dynamo.agents.sketch import ast as sk
from akg_dynamo.agents.sketch.intexpr import linear, simplify, variables
from akg_dynamo.core.errors import LoweringError

_WARPS, _STAGES = 4, 2
_HINT = re.compile(r"(num_warps|num_stages)=(\d+)\Z")
Unit = StoreTo | SetVariable | Loop


@dataclass(eq=False)
class PhasePlan:
    """`units`: what of the top level it runs, in order. `nest`: its parallel loops, outermost first; maybe none.

    homes: where each sink of the program stands. users: of each value that it needs. set_often: the variables that
    change after their first assignment.
    """

    units: list[Unit]
    homes: dict[StoreTo | SetVariable, Segment]
    nest: tuple[Loop, ...] = ()
    sinks: list[StoreTo | SetVariable] = field(default_factory=list)
    users: dict[Value, list[Value | StoreTo | SetVariable]] = field(default_factory=dict)
    loaded: set[str] = field(default_factory=set)
    stored: set[str] = field(default_factory=set)
    set_often: set[Variable] = field(default_factory=set)

    def __post_init__(self) -> None:
        written: set[Variable] = set()
        for unit in self.units:
            for sink in _sinks(unit):
                self.sinks.append(sink)
                if isinstance(sink, SetVariable):
                    (self.set_often if sink.variable in written else written).add(sink.variable)
                else:
                    self.stored.add(sink.access.tensor.name)
                    for tile in sink.access.gathers:
                        self._use(tile, sink)
                self._use(sink.value, sink)

    def _use(self, value: Value, user: Value | StoreTo | SetVariable) -> None:
        known = value in self.users
        self.users.setdefault(value, []).append(user)
        if not known:
            if value.kind == "load":
                assert value.access is not None
                self.loaded.add(value.access.tensor.name)
            for arg in value.args:
                self._use(arg, value)

    @property
    def hazards(self) -> set[str]:
        """Tensors that it both reads and writes."""
        return self.loaded & self.stored


def _sinks(unit: Unit) -> Iterator[StoreTo | SetVariable]:
    if not isinstance(unit, Loop):
        yield unit
        return
    for item in unit.block.items:
        if isinstance(item, Loop):
            yield from _sinks(item)
        else:
            yield from (s for s in item.sinks if not isinstance(s, Value))


def plan(program: Program) -> list[PhasePlan]:
    """The launches of a program, in order."""
    units: list[Unit] = []
    for item in program.block.items:
        if isinstance(item, Loop):
            units.append(item)
        else:
            units.extend(s for s in item.sinks if not isinstance(s, Value))
    homes = dict(_homes(program.block))
    return [PhasePlan(group, homes, _program_ids(group)) for group in _groups(units)]


def _homes(block: Block) -> Iterator[tuple[StoreTo | SetVariable, Segment]]:
    for item in block.items:
        if isinstance(item, Loop):
            yield from _homes(item.block)
        else:
            yield from ((s, item) for s in item.sinks if not isinstance(s, Value))


def _program_ids(units: list[Unit]) -> tuple[Loop, ...]:
    only = units[0]
    return _nest(only) if len(units) == 1 and isinstance(only, Loop) and only.source.parallel else ()


def _nest(outer: Loop) -> tuple[Loop, ...]:
    """Parallel loops that stand alone in one another, with bounds that do not follow the outer ones."""
    loops = [outer]
    while True:
        inner = _only_loop(loops[-1].block)
        if inner is None or not inner.source.parallel:
            return tuple(loops)
        outer_names = {loop.source.var for loop in loops}
        if outer_names & {*variables(inner.source.start), *variables(inner.source.stop)}:
            return tuple(loops)
        loops.append(inner)


def _only_loop(block: Block) -> Loop | None:
    """The one loop of a body that does nothing else but name values."""
    loops = [item for item in block.items if isinstance(item, Loop)]
    busy = any(isinstance(item, Segment) and item.sinks for item in block.items)
    return loops[0] if len(loops) == 1 and not busy else None


def trips(loop: Loop, step: int) -> sk.IntExpr:
    """How often a loop runs."""
    extent = sk.IntBin("-", loop.source.stop, loop.source.start)
    if step == 1:
        return simplify(extent)
    return simplify(sk.IntBin("//", sk.IntBin("+", extent, sk.IntConst(step - 1)), sk.IntConst(step)))


def lane_count(axis: Axis) -> int:
    """The lanes of its tile on a GPU: a power of two, no more than its extent calls for."""
    extent = linear(sk.IntBin("-", axis.stop, axis.start))
    known = extent.get(sk.IntConst(1), 0) if set(extent) <= {sk.IntConst(1)} else axis.size
    return 1 << (max(1, min(axis.size, known)) - 1).bit_length()


def always_full(axis: Axis, width: int, *, declared: bool) -> bool:
    """Whether every lane of its tiles is certainly live. declared: by an `axis`, not by a loop."""
    extent = linear(sk.IntBin("-", axis.stop, axis.start))
    if extent == {sk.IntConst(1): width}:
        return True
    return not declared and width == axis.size and all(factor % width == 0 for factor in extent.values())


def read_once(phase: PhasePlan) -> frozenset[Value]:
    """Loads of a phase marked "once" that no other load of it, and no other program, repeats."""
    if not phase.nest or "once" not in phase.nest[0].source.hints:
        return frozenset()
    loads = [v for v in phase.users if v.kind == "load" and v.access is not None]
    names = [v.access.tensor.name for v in loads if v.access is not None]
    around = {loop.source.var for loop in phase.nest if trips(loop, 1) != sk.IntConst(1)}
    return frozenset(
        v for v in loads if v.access and names.count(v.access.tensor.name) == 1 and around <= _moved_by(v.access)
    )


def _moved_by(access: Access) -> set[str]:
    """The loop variables and axes that an access moves with."""
    found: set[str] = set()
    for index in access.indices:
        if isinstance(index, IndexAt):
            found.update(variables(index.expr))
        elif isinstance(index, IndexSpan):
            found |= {index.axis.name, *variables(index.shift), *variables(index.axis.start)}
    return found


def launch_options(sketch: sk.Sketch, phase_plan: PhasePlan) -> dict[str, int]:
    """num_warps and num_stages: the sketch's reserved constexprs, or hints on the phase's first loop."""
    options = {"num_warps": _WARPS, "num_stages": _STAGES}
    options |= {c.name: c.value for c in sketch.constexprs if c.name in options}
    for loop in [unit for unit in phase_plan.units if isinstance(unit, Loop)][:1]:
        for hint in loop.source.hints:
            found = _HINT.match(hint)
            if found:
                options[found[1]] = int(found[2])
    warps = options["num_warps"]
    if warps & (warps - 1) or not 1 <= warps <= 32:
        raise LoweringError(f"num_warps must be a power of two up to 32, not {warps}")
    return options


def _groups(units: list[Unit]) -> list[list[Unit]]:
    """Units cut between loops, where nothing but tensors passes."""
    ends = list(range(len(units)))  # the last unit that each must run together with
    seen: dict[object, int] = {}
    stores: dict[str, list[int]] = {}
    for i, unit in enumerate(units):
        for key in _shared(unit):
            ends[seen.setdefault(key, i)] = i
        for sink in _sinks(unit):
            if isinstance(sink, StoreTo):
                stores.setdefault(sink.access.tensor.name, []).append(i)
        if i and not isinstance(unit, Loop) and not isinstance(units[i - 1], Loop):
            ends[i - 1] = max(ends[i - 1], i)  # straight-line work stays together
    _keep_old_reads(units, stores, ends)
    groups: list[list[Unit]] = []
    last = -1
    for i, unit in enumerate(units):
        if i > last:
            groups.append([])
        groups[-1].append(unit)
        last = max(last, ends[i])
    return groups


def _shared(unit: Unit) -> set[object]:
    """The variables that a unit sets or reads."""
    found: set[object] = set()
    seen: set[Value] = set()
    todo: list[Value] = []
    for sink in _sinks(unit):
        todo.append(sink.value)
        if isinstance(sink, SetVariable):
            found.add(sink.variable)
        else:
            todo.extend(sink.access.gathers)
    while todo:
        value = todo.pop()
        if value in seen:
            continue
        seen.add(value)
        if value.kind == "variable":
            found.add(value.data)
        todo.extend(value.args)
    return found


def _keep_old_reads(units: list[Unit], stores: dict[str, list[int]], ends: list[int]) -> None:
    """A value loaded at the top level before a store to its tensor must not be read anew in a later launch."""
    first_use: dict[Value, int] = {}
    for i, unit in enumerate(units):
        todo = [sink.value for sink in _sinks(unit)]
        seen: set[Value] = set()
        while todo:
            value = todo.pop()
            if value in seen:
                continue
            seen.add(value)
            todo.extend(value.args)
            if value.kind != "load" or value.access is None:
                continue
            start = first_use.setdefault(value, i)
            written = [w for w in stores.get(value.access.tensor.name, []) if start <= w < i]
            if written and start != i:
                ends[start] = max(ends[start], i)


__all__ = ["PhasePlan", "Unit", "always_full", "lane_count", "launch_options", "plan", "trips"]
