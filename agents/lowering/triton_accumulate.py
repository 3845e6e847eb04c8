"""Reductions over a loop that can wait for its end.

    for j in range(0, N, BN):                   total_lanes = tl.full([BN], 0.0, tl.float32)
      total = total + reduce_sum(x, j)          for j_start in range(0, N, BN):
                                          =>        total_lanes = total_lanes + x
                                                total = total + tl.sum(total_lanes, axis=0)

A reduction across lanes is an exchange between threads, with a barrier; so it is done once, after the loop.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from akg_dynamo.agents.lowering.ir import Axis, Block, Loop, Segment, SetVariable, StoreTo, Value, Variable
from akg_dynamo.agents.lowering.triton_phases import PhasePlan
from akg_dynamo.agents.sketch.ast import DType

COMBINE = {"sum": "add", "prod": "mul", "max": "maximum", "min": "minimum", "any": "or", "all": "and"}
"""Reduction -> the operation that joins two of its results."""


@dataclass(frozen=True, eq=False)
class Accumulator:
    """`variable`, updated by `update` with `reduced`, is carried lane by lane through `loop` and what is inside it.

    first: the assignment before the loop, if all it does is to set the neutral value that the lanes start from too.
    """

    variable: Variable
    update: SetVariable
    reduced: Value
    loop: Loop
    first: SetVariable | None

    @property
    def axis(self) -> Axis:
        """The lanes."""
        assert self.reduced.axis is not None
        return self.reduced.axis

    @property
    def axes(self) -> tuple[Axis, ...]:
        """Of the tile that is carried."""
        return (*self.variable.axes, self.axis)


def accumulators(phase: PhasePlan) -> list[Accumulator]:
    """Those of a launch."""
    return list(_Search(phase).run())


class _Search:
    def __init__(self, phase: PhasePlan) -> None:
        self.phase = phase
        self.stacks: dict[Segment, tuple[Loop, ...]] = {}
        self.sets: dict[Variable, list[SetVariable]] = {}
        self.reads: dict[Variable, list[Value]] = {}
        for unit in phase.units:
            if isinstance(unit, Loop):
                self._walk(unit.block, (unit,))
        for sink in phase.sinks:
            if isinstance(sink, SetVariable):
                self.sets.setdefault(sink.variable, []).append(sink)
        for value in phase.users:
            if isinstance(value.data, Variable):
                self.reads.setdefault(value.data, []).append(value)

    def _walk(self, block: Block, stack: tuple[Loop, ...]) -> None:
        for item in block.items:
            if isinstance(item, Loop):
                self._walk(item.block, (*stack, item))
            else:
                self.stacks[item] = stack

    def run(self) -> Iterator[Accumulator]:
        for update in self.phase.sinks:
            if isinstance(update, SetVariable):
                found = self._accumulator(update)
                if found is not None:
                    yield found

    def _stack(self, user: Value | SetVariable | StoreTo) -> tuple[Loop, ...]:
        home = user.home if isinstance(user, Value) else self.phase.homes[user]
        return self.stacks.get(home, ()) if home is not None else ()

    def _accumulator(self, update: SetVariable) -> Accumulator | None:
        variable, joined, stack = update.variable, update.value, self._stack(update)
        halves = variable.dtype in (DType.F16, DType.BF16)  # these are rounded at every step
        if halves or not stack or joined.kind != "op" or self.phase.users[joined] != [update]:
            return None
        for old, reduced in (joined.args, joined.args[::-1]) if len(joined.args) == 2 else ():
            fits = (
                isinstance(old.data, Variable)
                and old.data is variable
                and reduced.kind == "reduce"
                and COMBINE.get(reduced.name) == joined.name
                and reduced.axis is stack[-1].axis
                and reduced.dtype is variable.dtype
                and self.phase.users[old] == self.phase.users[reduced] == [joined]
            )
            if fits:
                span = self._span(variable, update, old)
                if span is not None:
                    return Accumulator(variable, update, reduced, span, self._first(variable, update, reduced, span))
        return None

    def _span(self, variable: Variable, update: SetVariable, old: Value) -> Loop | None:
        """The outermost loop in which nothing else looks at the variable."""
        span: Loop | None = None
        for loop in reversed(self._stack(update)):
            inside = [s for s in self.sets[variable] if loop in self._stack(s)]
            reads = [r for r in self.reads[variable] if loop in self._stack(r)]
            if loop in self.phase.nest or inside != [update] or reads != [old]:
                break
            span = loop
        return span

    def _first(self, variable: Variable, update: SetVariable, reduced: Value, span: Loop) -> SetVariable | None:
        """The assignment that the lanes' own start makes needless."""
        first = self.sets[variable][0]
        stack = self._stack(update)
        around = stack[: stack.index(span)]
        neutral = first.value.kind == "literal" and first.value.data == identity(reduced.name, variable.dtype)
        alone = len(self.sets[variable]) == 2 and self._stack(first) == around
        early = any(r.id < update.id and r is not self._old(update, variable) for r in self.reads[variable])
        return first if neutral and alone and not early else None

    @staticmethod
    def _old(update: SetVariable, variable: Variable) -> Value:
        return next(a for a in update.value.args if a.data is variable)


def identity(name: str, dtype: DType) -> float | int | bool:
    """What changes nothing in a reduction."""
    if name in ("sum", "prod"):
        return 0 if name == "sum" else 1
    if name in ("any", "all"):
        return name == "all"
    largest = name.endswith("max")
    if dtype is DType.BOOL:
        return not largest
    if dtype.is_float:
        return float("-inf") if largest else float("inf")
    bits = dtype.size_bytes * 8
    low, high = (0, 2**bits - 1) if dtype is DType.U8 else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return low if largest else high
