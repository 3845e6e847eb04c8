"""The innermost loops: values in registers, reductions and scans, stores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from akg_dynamo.agents.lowering import cpp_memory, cpp_ops
from akg_dynamo.agents.lowering.cpp_memory import Names
from akg_dynamo.agents.lowering.cpp_ops import Reg
from akg_dynamo.agents.lowering.cpp_place import lane_name
from akg_dynamo.agents.lowering.cpp_reduce import Reductions, Sinks
from akg_dynamo.agents.lowering.index import c_name, c_text
from akg_dynamo.agents.lowering.ir import Axis, SetVariable, StoreTo, Value, Variable
from akg_dynamo.agents.lowering.schedule import Leaf, Plan
from akg_dynamo.agents.sketch.ast import DType
from akg_dynamo.core.errors import LoweringError

if TYPE_CHECKING:
    from akg_dynamo.agents.lowering.cpp_emit import BlockEmitter

Registers: TypeAlias = "dict[Value, Reg]"
_LONG = 90  # characters of an expression that get a name
_LANE_ARGUMENTS = "[[maybe_unused]] auto n, [[maybe_unused]] auto u"


class LeafEmitter:
    """Writes one leaf, and what is computed once before it."""

    def __init__(
        self, blocks: BlockEmitter, plan: Plan, registers: Registers, bound: Sequence[Axis], dead: set[Value]
    ) -> None:
        self.blocks = blocks
        self.plan = plan
        self.schedule = blocks.schedule
        self.registers = registers
        self.bound = list(bound)
        self.dead = dead
        self.vector: Axis | None = None
        self.lane_bytes = self.schedule.lane_bytes
        self.counted: set[Value] = set()
        self.held: dict[Variable, Reg] = {}  # tiles' lanes that are in registers for the time being
        self.names = Names(blocks.ranges, {}, lane_name)
        self.reductions = Reductions(self)

    # -- values

    def hoist(self, leaf: Leaf) -> None:
        """Defines here what the leaf needs and what does not change in the loops that follow."""
        for sink in self._live(leaf):
            for value in sorted(self.schedule.closure(sink), key=lambda v: v.id):
                if value not in self.registers and set(value.axes) <= set(self.bound) and self._ready(value, leaf):
                    self._define(value, self.registers, named=True)

    def _live(self, leaf: Leaf) -> Iterator[StoreTo | SetVariable | Value]:
        return (s for s in leaf.sinks if s not in self.dead)

    def _ready(self, value: Value, leaf: Leaf) -> bool:
        if value.kind == "variable":
            return value.data in self.blocks.variables
        if self.schedule.located(value):
            return value in self.blocks.stored and self.plan.place.get(value) is not leaf
        return all(a in self.registers for a in value.args)

    def _define(self, value: Value, registers: Registers, named: bool) -> None:
        reg = self._compute(value, registers)
        trivial = (
            value.kind in ("literal", "index")
            or value in self.counted
            or (not reg.vector and reg.text.isidentifier() and value.kind != "variable")
        )
        if not trivial and (
            named
            or value.hint
            or value.kind in ("load", "variable", "lanes")
            or self._uses(value) != 1
            or len(reg.text) > _LONG
        ):
            name = f"{c_name(value.hint)}_{value.id}" if value.hint else f"t{value.id}"
            text = reg.text[1:-1] if _wrapped(reg.text) else reg.text
            self.blocks.line(f"const {reg.c_type} {name} = {text};")
            reg = replace(reg, text=name)
        registers[value] = reg

    def _only_stored(self, value: Value) -> bool:
        """Whether its one use is to be stored as it is to a tensor."""
        if self._uses(value) != 1 or self.schedule.located(value):
            return False
        return any(isinstance(s, StoreTo) and s.value is value for leaf in self.plan.leaves for s in leaf.sinks)

    def _uses(self, value: Value) -> int:
        counts = self.blocks.use_counts(self.plan)
        return counts.get(value, 0)

    def _compute(self, value: Value, registers: Registers) -> Reg:
        if value.kind == "variable":
            assert isinstance(value.data, Variable)
            if value.data in self.held:
                return self.held[value.data]
            return self.blocks.variables[value.data].read(self.vector)
        if self.schedule.located(value) and value in self.blocks.stored:
            reg = self.blocks.places[value].read(self.vector)
            if value.kind == "reduce" and value.name in ("sum", "prod"):
                return Reg(cpp_ops.rounded(reg.text, value.dtype), reg.dtype, reg.vector, reg.mask_bytes)
            return reg
        return self._compute_fresh(value, registers)

    def _compute_fresh(self, value: Value, registers: Registers) -> Reg:
        kind = value.kind
        if kind == "literal":
            assert isinstance(value.data, float | int | bool)
            return cpp_ops.literal(value.data, value.dtype)
        if kind == "index":
            text = c_text(value.data, {})  # type: ignore[arg-type]
            return Reg(text if text.isidentifier() else f"int64_t({text})", DType.I64, False)
        if kind == "lanes":
            assert value.axis is not None
            lane = lane_name(value.axis)
            if value.axis is self.vector:
                first = lane if value in self.counted else ""
                return Reg(f"(splat<int64_t>({lane}) + iota<int64_t>())", DType.I64, True, first=first)
            return Reg(lane, DType.I64, False)
        if value.kind == "load":
            return cpp_memory.load(value, self.names, registers, self.vector, self.blocks.turned.get(value))
        if value.kind == "cast":
            return cpp_ops.cast(registers[value.args[0]], value.dtype, only_stored=self._only_stored(value))
        if value.kind == "op":
            operands = [registers[a] for a in value.args]
            only_stored = self._only_stored(value)
            reg = cpp_ops.operation(
                value.name, operands, value.dtype, only_stored=only_stored, lane_bytes=self.lane_bytes
            )
            return reg if value in self.counted else replace(reg, first="")
        raise LoweringError(f"{value.kind} {value.name} is used before it is computed")

    # -- the leaf

    def leaf(self, leaf: Leaf) -> None:
        """Its loop (if it has a vector axis), between what its reductions need before and after."""
        axis = (
            leaf.path[-1]
            if leaf.path and leaf.path[-1] is self.plan.vector and leaf.path[-1] not in self.bound
            else None
        )
        sinks = list(self._live(leaf))
        if not sinks:
            return
        if axis is None:
            self.body(sinks, self.registers)
        else:
            self.enter(leaf, axis)
            self.reductions.vector_loop(sinks, axis)
        for sink in sinks:
            if isinstance(sink, Value) and sink in self.blocks.places:
                self.blocks.stored.add(sink)
                if axis is not None or sink.kind == "reduce":
                    self.registers.pop(sink, None)

    def enter(self, leaf: Leaf, axis: Axis) -> None:
        """What follows is for the vectors of this leaf."""
        self.lane_bytes = self.schedule.lane_bytes_of(leaf, axis)
        self.counted = self.schedule.counted(leaf, axis)

    def lanes(
        self, axis: Axis, unroll: int, body: Sinks | Callable[[], None], bounds: tuple[str, str] | None = None
    ) -> None:
        """A loop over the vectors of an axis (of a part of it). `body`: the sinks to write, or what writes it."""
        blocks = self.blocks
        name, lane = c_name(axis.c_name), lane_name(axis)
        first, end = bounds or (name, f"{name}_end")
        head = len(blocks.lines)
        blocks.line("")
        blocks.depth += 1
        self.vector = axis
        if callable(body):
            body()
        else:
            self.body(body, dict(self.registers))
        self.vector = None
        blocks.depth -= 1
        captures = blocks.captures(head)
        borrowed = blocks.borrow("\n".join(blocks.lines[head + 1 :]), self.lane_bytes)
        if borrowed:
            blocks.lines.insert(head + 1, "  " * (blocks.depth + 1) + f"using {', '.join(borrowed)};")
        call = blocks.qualified(f"lanes<{unroll}>", self.lane_bytes)
        blocks.lines[head] = (
            "  " * blocks.depth + f"{call}({first}, {end}, [{captures}](int64_t {lane}, {_LANE_ARGUMENTS}) INLINE {{"
        )
        blocks.line("});")

    def body(self, sinks: Sinks, registers: Registers) -> None:
        """What a leaf does in the current lanes."""
        updates: list[SetVariable] = []
        for sink in sinks:
            for value in sorted(self.schedule.closure(sink), key=lambda v: v.id):
                if value not in registers:
                    self._define(value, registers, named=False)
            if isinstance(sink, StoreTo):
                turned = self.blocks.turned.get(sink)
                read_again = sink.access.tensor.name in self.blocks.read
                text = cpp_memory.store(sink, self.names, registers, self.vector, turned, read_again=read_again)
                self.blocks.line(text)
            elif isinstance(sink, SetVariable):
                updates.append(sink)
            elif sink.kind == "reduce":
                self.reductions.step(sink, registers[sink.args[0]])
            else:
                self._keep(sink, registers)
        if len(updates) > 1:  # all new values first: one may be computed from another's old value
            for update in updates:
                reg = registers[update.value]
                if not reg.text.isidentifier():
                    name = f"{c_name(update.variable.c_name)}_new"
                    self.blocks.line(f"const {reg.c_type} {name} = {reg.text};")
                    registers[update.value] = Reg(name, reg.dtype, reg.vector, reg.mask_bytes)
        for update in updates:
            held = self.held.get(update.variable)
            if held is not None:
                self.blocks.line(f"{held.text} = {cpp_ops.spread(registers[update.value]).text};")
            else:
                self.blocks.line(self.blocks.variables[update.variable].write(registers[update.value], self.vector))

    def _keep(self, value: Value, registers: Registers) -> None:
        if value.kind == "scan":
            self.reductions.scan_step(value, registers)
        elif value not in registers:
            reg = self._compute_fresh(value, registers)
            name = f"{c_name(value.hint) if value.hint else 't'}{value.id}"
            self.blocks.line(f"const {reg.c_type} {name} = {reg.text};")
            registers[value] = Reg(name, reg.dtype, reg.vector, reg.mask_bytes)
        if value in self.blocks.places:
            self.blocks.line(self.blocks.places[value].write(registers[value], self.vector))


def _wrapped(text: str) -> bool:
    """Whether the outermost parentheses enclose all of it."""
    if not (text.startswith("(") and text.endswith(")")):
        return False
    depth = 0
    for i, ch in enumerate(text):
        depth += (ch == "(") - (ch == ")")
        if depth == 0 and i < len(text) - 1:
            return False
    return True
