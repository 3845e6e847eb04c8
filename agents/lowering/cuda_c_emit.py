"""One launch of a sketch as a CUDA C function: loops and statements.

It is written several times over. A first time shows where each value is computed and from where each tile is read;
what that suggests to keep is kept in the next. The last writing is the result.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from akg_dynamo.agents.lowering import cpp_ops
from akg_dynamo.agents.lowering.cuda_c_collective import Collectives
from akg_dynamo.agents.lowering.cuda_c_layout import fastest_axis
from akg_dynamo.agents.lowering.cuda_c_text import Text
from akg_dynamo.agents.lowering.cuda_c_tiles import Axes, Lanes, Tiles
from akg_dynamo.agents.lowering.cuda_c_values import Values, is_pure
from akg_dynamo.agents.lowering.index import Ranges, c_text
from akg_dynamo.agents.lowering.ir import (
    Access,
    Axis,
    Block,
    Loop,
    Program,
    Segment,
    SetVariable,
    StoreTo,
    Value,
    Variable,
)
from akg_dynamo.agents.lowering.triton_ints import SUM, python_text
from akg_dynamo.agents.lowering.triton_phases import PhasePlan, always_full, lane_count, trips
from akg_dynamo.agents.sketch import ast as sk

_TOGETHER = ("reduce", "scan", "dot")
_KEPT_SLOTS = 64  # of a thread, for a value that could be computed again instead
_WORTH_KEEPING = 8  # the cost of a value that is not computed twice

Entry = StoreTo | SetVariable | Value


@dataclass
class Choices:
    """What earlier writings suggest: values to compute once, tiles that more than their own lanes read."""

    kept: set[Value] = field(default_factory=set)
    in_shared: set[Value | Variable] = field(default_factory=set)


def written(program: Program, phase: PhasePlan, block: int) -> PhaseWriter:
    """A phase in its final form."""
    choices = Choices()
    while True:
        writer = PhaseWriter(program, phase, block, choices)
        writer.run()
        more = writer.worth_keeping()
        if more is not None:
            choices.kept.add(more)
            continue
        read = writer.tiles.uses.read
        seen_by_others = {key for key, spaces in read.items() if any(axes != key.axes for axes in spaces)}
        if seen_by_others <= choices.in_shared:
            return writer
        choices.in_shared |= seen_by_others


class PhaseWriter:
    """Writes the body of one launch. `text` and `grid` are the result."""

    def __init__(self, program: Program, phase: PhasePlan, block: int, choices: Choices) -> None:
        self.program = program
        self.phase = phase
        self.choices = choices
        self.text = Text()
        self.grid: tuple[str, ...] = ("1",)
        sketch = program.sketch
        self.tensors = {t.name: self.text.fresh(t.name) for t in sketch.tensors}
        self.ints: dict[str, str] = {s: self.text.fresh(s) for s in sketch.symbols}
        self.symbols = dict(self.ints)
        self.ints |= {c.name: str(c.value) for c in sketch.constexprs}
        self.ranges = Ranges(program.constexprs)
        self.axes = {a for v in phase.users for a in v.axes} | {a for s in phase.sinks for a in s.axes}
        self.axes |= {v.axis for v in phase.users if v.axis is not None}
        squares = {v.axes for v in phase.users if v.kind == "dot"}
        self.tiles = Tiles(self.text, block, squares, choices.in_shared)
        self.tiles.ints = self.ints
        self.tiles.fastest = self._fastest()
        users = {v: len(u) for v, u in phase.users.items()}
        self.values = Values(self.tiles, self.ranges, self.tensors, users)
        self.collectives = Collectives(self.tiles, self.values)
        self.accumulated: set[Entry] = set()
        self.variables = {s.variable for s in phase.sinks if isinstance(s, SetVariable)}

    def _fastest(self) -> dict[Axes, int]:
        """For tiles that are loaded or stored as they are: the axis along which they are contiguous in memory."""
        accesses: dict[Axes, list[Access]] = {}
        for value in self.phase.users:
            if value.access is not None:
                accesses.setdefault(value.axes, []).append(value.access)
        for sink in self.phase.sinks:
            if isinstance(sink, StoreTo):
                accesses.setdefault(sink.axes, []).append(sink.access)
        return {axes: fastest_axis(axes, found) for axes, found in accesses.items()}

    def run(self) -> None:
        """Writes it all."""
        if self.phase.nest:
            self._program_ids(self.phase.nest)
        units = set(self.phase.units)
        self._declare(self.program.block)
        for item in self.program.block.items:
            if isinstance(item, Segment):
                self._segment(item, [s for s in item.sinks if not isinstance(s, Value) and s in units])
            elif item in units:
                self._loop(item)
        self.text.drop_unused()

    @property
    def lines(self) -> list[str]:
        """The body."""
        return [*self.tiles.head(), *self.text.lines]

    # -- what to keep

    def worth_keeping(self) -> Value | None:
        """The last of the values that were computed more often than they should be."""
        found = [v for v in self.tiles.uses.evaluated if self._keeps(v)]
        return max(found, key=lambda v: v.id, default=None)

    def _keeps(self, value: Value) -> bool:
        if is_pure(value) or not value.axes or self.tiles.layout(value.axes).slots > _KEPT_SLOTS:
            return False
        places = self.tiles.uses.evaluated[value]
        cost = self._cost(value)
        if any(axes != value.axes for _, axes in places):
            return value.kind != "load" and cost > _WORTH_KEEPING
        return len(places) > 1 and (value.kind == "load" or cost > _WORTH_KEEPING)

    def _cost(self, value: Value) -> int:
        """Of computing it from what is held."""
        if value in self.tiles.held or value.kind in ("variable", *_TOGETHER):
            return 1
        own = cpp_ops.cost(value.name, value.dtype) if value.kind == "op" else 4 if value.kind == "load" else 0
        return own + sum(self._cost(a) for a in value.args)

    # -- program ids, loops

    def _program_ids(self, nest: tuple[Loop, ...]) -> None:
        """The loops of the nest as one block index: the innermost moves fastest."""
        counts = [trips(loop, _step(loop)) for loop in nest]
        texts = [python_text(c, SUM) for c in counts if c != sk.IntConst(1)]
        self.grid = (" * ".join(f"({t})" if len(texts) > 1 and not t.isalnum() else t for t in texts) or "1",)
        rest = ""
        starts: list[str] = []
        for loop, count in reversed(list(zip(nest, counts, strict=True))):
            if count == sk.IntConst(1):
                starts.append("")
                continue
            if not rest:
                rest = "int64_t(blockIdx.x)"
            last = all(c == sk.IntConst(1) for c in counts[: nest.index(loop)])
            size = c_text(count, self.ints, 2)
            starts.append(rest if last else f"{rest} % {size}")
            rest = f"{rest} / {size}"
        for loop, index in zip(nest, reversed(starts), strict=True):
            start = c_text(loop.source.start, self.ints, 1)
            moved = index if _step(loop) == 1 or not index else f"{index} * {_step(loop)}"
            first = " + ".join(t for t in (start if start != "0" else "", moved) if t) or "0"
            self._enter(loop, first)

    def _enter(self, loop: Loop, first: str) -> None:
        """Names what a loop gives its body."""
        source = loop.source
        self.ranges.loops[source.var] = (source.start, source.stop)
        name = self.text.fresh(source.var if loop.axis is None else f"{source.var}_start")
        self.text.line(f"const int64_t {name} = {first};")
        self.ints[source.var] = name
        if loop.axis is not None:
            self._axis(loop.axis, name, declared=False)

    def _loop(self, loop: Loop) -> None:
        if loop in self.phase.nest:
            self._block(loop.block)
            return
        count = trips(loop, _step(loop))
        if isinstance(count, sk.IntConst) and count.value <= 1:
            if count.value == 1:
                self._enter(loop, c_text(loop.source.start, self.ints))
                self._block(loop.block)
            return
        source = loop.source
        self.ranges.loops[source.var] = (source.start, source.stop)
        start, stop = c_text(source.start, self.ints), c_text(source.stop, self.ints, 1)
        name = self.text.fresh(source.var if loop.axis is None else f"{source.var}_start")
        step = f"{name}++" if _step(loop) == 1 else f"{name} += {_step(loop)}"
        with self.text.body(f"for (int64_t {name} = {start}; {name} < {stop}; {step})"):
            self.ints[source.var] = name
            if loop.axis is not None:
                self._axis(loop.axis, name, declared=False)
            self._block(loop.block)

    def _declare(self, block: Block) -> None:
        """The axes and variables of a body."""
        for axis in block.axes:
            self.ranges.loops[axis.name] = (axis.start, axis.stop)
            start = c_text(axis.start, self.ints)
            self.ints[axis.name] = start if start.isalnum() else f"({start})"
            self._axis(axis, self.ints[axis.name], declared=True)
        for variable in block.declared:
            if variable in self.variables:
                self.tiles.declare(variable, variable.c_name, variable.dtype)

    def _axis(self, axis: Axis, start: str, *, declared: bool) -> None:
        width = lane_count(axis)
        self.tiles.lanes[axis] = Lanes(start, width, always_full(axis, width, declared=declared))

    # -- statements

    def _block(self, block: Block) -> None:
        self._declare(block)
        for item in block.items:
            if isinstance(item, Loop):
                self._loop(item)
            else:
                self._segment(item, [s for s in item.sinks if not isinstance(s, Value)])

    def _segment(self, segment: Segment, sinks: list[StoreTo | SetVariable]) -> None:
        """Sinks, and values that are kept, in the order of the program."""
        kept = [v for v in self.phase.users if v.home is segment and (v.kind in _TOGETHER or self._is_kept(v))]
        entries: list[Entry] = sorted([*sinks, *kept], key=lambda entry: entry.id)
        for n, entry in enumerate(entries):
            self.values.entry += 1
            if isinstance(entry, StoreTo):
                self._store(entry)
            elif entry in self.accumulated:
                continue
            elif isinstance(entry, SetVariable):
                self._set(entry, entries[n + 1 :])
            elif entry.kind in _TOGETHER:
                self._together(entry)
            else:
                self._keep(entry)

    def _together(self, value: Value) -> None:
        update = self._update(value) if value.kind == "dot" else None
        if update is None:
            self.collectives.write(value)
        else:
            self.accumulated.add(update)
            self.collectives.accumulate(value, self.tiles.held[update.variable])

    def _update(self, dot: Value) -> SetVariable | None:
        """The assignment ``acc = acc + dot``, if that is all that the product and the old sum are for."""
        users = self.phase.users[dot]
        add = users[0]
        if len(users) != 1 or not isinstance(add, Value) or add.name != "add" or len(self.phase.users[add]) != 1:
            return None
        update = self.phase.users[add][0]
        if not isinstance(update, SetVariable) or update.variable.axes != dot.axes:
            return None
        old = add.args[1] if add.args[0] is dot else add.args[0]
        alone = old.data is update.variable and len(self.phase.users[old]) == 1 and add.home is dot.home
        return (
            update
            if alone and self.phase.homes[update] is dot.home and not self.tiles.held[update.variable].in_shared
            else None
        )

    def _is_kept(self, value: Value) -> bool:
        """Whether it is computed where it stands: other parts of the program use it, it has no axes, or is chosen."""
        if is_pure(value):
            return False
        if isinstance(value.data, Variable):
            return value.data in self.phase.set_often and self._escapes(value)
        return not value.axes or value in self.choices.kept or self._escapes(value)

    def _escapes(self, value: Value) -> bool:
        for user in self.phase.users[value]:
            home = user.home if isinstance(user, Value) else self.phase.homes[user]
            if home is not value.home:
                return True
        return False

    def _keep(self, value: Value) -> None:
        """Computes a value into a tile."""
        if value in self.tiles.held:
            return
        wanted = value.hint or (value.data.c_name if isinstance(value.data, Variable) else value.kind)
        if not value.axes:
            with self.tiles.space(()) as space:
                self.tiles.define(value, wanted, self.values.computed(value, space).text)
            return
        held = self.tiles.declare(value, wanted, value.dtype)
        with self.tiles.writing(value), self.tiles.space(value.axes) as space, self.text.body(_if(space.live)):
            text = self.values.computed(value, space).text
            self.text.line(f"{self.tiles.element(held, space)} = {text};")

    def _store(self, sink: StoreTo) -> None:
        hazard = sink.access.tensor.name in self.phase.hazards
        if hazard:
            self.text.barrier()
        with self.tiles.space(sink.axes) as space:
            conditions = space.live if space.axes else "threadIdx.x == 0"
            with self.text.body(_if(conditions)):
                self.values.store(sink, space)
        if hazard:
            self.text.barrier()

    def _set(self, sink: SetVariable, later: list[Entry]) -> None:
        """An assignment. Who still needs the old value keeps it under another name."""
        for value in [v for v in self.phase.users if v.data is sink.variable and v.home is self.phase.homes[sink]]:
            if value not in self.tiles.held and any(self._needs(entry, value) for entry in later):
                self._keep(value)
        held = self.tiles.held[sink.variable]
        with (
            self.tiles.writing(sink.variable),
            self.tiles.space(sink.axes) as space,
            self.text.body(_if(space.live)),
        ):
            found = self.values.at(sink.value, space)
            element = self.tiles.element(held, space)
            if found.text != element:
                self.text.line(f"{element} = {found.text};")

    def _needs(self, entry: Entry, read: Value) -> bool:
        """Whether writing an entry computes from `read`."""
        todo = list(entry.args) if isinstance(entry, Value) else [entry.value]
        if isinstance(entry, StoreTo):
            todo.extend(entry.access.gathers)
        while todo:
            value = todo.pop()
            if value is read:
                return True
            if value not in self.tiles.held:
                todo.extend(value.args)
        return False


def _if(condition: str) -> str:
    return f"if ({condition})" if condition else ""


def _step(loop: Loop) -> int:
    """The lanes of a tiled loop; 1 for a scalar one."""
    return 1 if loop.axis is None else loop.axis.size
