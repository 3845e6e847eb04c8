"""One launch of a sketch as a jit function: loops and statements. What a value is, `triton_values` writes."""

from __future__ import annotations

import re
from dataclasses import replace

from akg_dynamo.agents.lowering.index import Ranges, is_const, strides_of
from akg_dynamo.agents.lowering.ir import (
    Access,
    Axis,
    Block,
    IndexAt,
    IndexGather,
    IndexSpan,
    Loop,
    Program,
    Segment,
    SetVariable,
    StoreTo,
    Value,
    Variable,
    access_axes,
)
from akg_dynamo.agents.lowering.triton_accumulate import Accumulator, accumulators
from akg_dynamo.agents.lowering.triton_ints import ATOM, COMPARISON, SUM, Int, combine, int_text, number, python_text
from akg_dynamo.agents.lowering.triton_memory import Lanes
from akg_dynamo.agents.lowering.triton_names import Names, python_name
from akg_dynamo.agents.lowering.triton_ops import TYPES, Tile, literal, native
from akg_dynamo.agents.lowering.triton_phases import PhasePlan, always_full, lane_count, trips
from akg_dynamo.agents.lowering.triton_precision import rough
from akg_dynamo.agents.lowering.triton_values import ValueWriter
from akg_dynamo.agents.sketch import ast as sk
from akg_dynamo.agents.sketch.ast import DType
from akg_dynamo.agents.sketch.intexpr import linear, simplify

_ASSIGNED = re.compile(r"\s*(\w+) = ")
_CALL = re.compile(r"( *)((?:\w+(?:, \w+)* = )?[\w.]+)\((.*)\)")
_LINE = 120  # characters
_TWICE = 64  # values that a body may have which is written twice
_VECTORS = 16  # what Triton calls divisible: sizes and addresses that are multiples allow the widest vectors


class PhaseEmitter:
    """Writes the body of one launch. `lines`, `tensors` and `grid` are the result."""

    def __init__(self, program: Program, phase: PhasePlan, *, num_warps: int, num_stages: int, exact: bool) -> None:
        self.program = program
        self.phase = phase
        self.num_stages = num_stages
        self.lines: list[str] = []
        self.depth = 1
        self.grid: tuple[str, ...] = ("1",)
        sketch = program.sketch
        self.ints: dict[str, Int] = {s: Int(python_name(s), ATOM, 0, None, wide=True) for s in sketch.symbols}
        self.ints |= {c.name: number(c.value) for c in sketch.constexprs}
        pointers = {f"{t.name}_ptr" for t in sketch.tensors}
        self.names = Names(pointers | {i.text for i in self.ints.values()})
        self.ranges = Ranges(program.constexprs)
        self.axes = {a for v in phase.users for a in v.axes} | {a for s in phase.sinks for a in s.axes}
        self.values = ValueWriter(phase, self.ints, self.ranges, self.names, self.line, exact=exact)
        self.values.threads = 32 * num_warps
        self.values.rough = rough(program)
        found = [a for a in accumulators(phase) if self.repeats(a.loop)]
        self.around: dict[Loop, list[Accumulator]] = {}
        for accumulator in found:
            self.around.setdefault(accumulator.loop, []).append(accumulator)
        self.updates = {a.update: a for a in found}
        self.needless = {a.first for a in found}

    def line(self, text: str) -> None:
        """One statement at the present indentation."""
        self.lines.append("    " * self.depth + text)

    def text(self) -> str:
        """The function's body."""
        return "\n".join(piece for line in self.lines for piece in wrapped(line)) or "    pass"

    def run(self) -> None:
        """Writes it all."""
        if self.phase.nest:
            self.program_ids(self.phase.nest)
        units = set(self.phase.units)
        self.define_axes(self.program.block)
        for item in self.program.block.items:
            if isinstance(item, Segment):
                self.segment(item, [s for s in item.sinks if not isinstance(s, Value) and s in units])
            elif item in units:
                self.loop(item)
        self.drop_unused()

    # ------------------------------------------------------------------------------------------- program ids, loops

    def program_ids(self, nest: tuple[Loop, ...]) -> None:
        """The loops of the nest as one program id: the innermost moves fastest."""
        counts = [trips(loop, self.step(loop)) for loop in nest]
        texts = [python_text(c, SUM) for c in counts if c != sk.IntConst(1)]
        self.grid = (" * ".join(f"({t})" if len(texts) > 1 and not t.isalnum() else t for t in texts) or "1",)
        moving = [(loop, count) for loop, count in zip(nest, counts, strict=True) if count != sk.IntConst(1)]
        for loop, count in zip(nest, counts, strict=True):
            if count == sk.IntConst(1):
                self.enter(loop, number(0))
        if not moving:
            return
        sizes = [self.count(loop, count) for loop, count in moving]
        total = number(1)
        for size in sizes:
            total = combine("*", total, Int("", ATOM, size.low, size.high, wide=True))
        high = None if total.high is None else total.high - 1
        rest = Int("pid", ATOM, 0, high, wide=False)
        if len(moving) == 1:
            loop = moving[0][0]
            launched = Int("tl.program_id(0)", ATOM, 0, high, wide=False)
            if not launched.fits:
                launched = Int("tl.program_id(0).to(tl.int64)", ATOM, 0, high, wide=True)
            self.enter(loop, launched)
            return
        self.line(f"{self.names.fresh('pid')} = tl.program_id(0)")
        inner = sizes[1:]
        for (loop, _), size, k in zip(moving, sizes, range(len(sizes)), strict=True):
            span = number(1)
            for other in inner[k:]:
                span = combine("*", span, other)
            index = rest
            if span.text != "1":
                index = Int(f"{index.text} // {span.at(ATOM)}", ATOM - 2, 0, None, wide=False)
            if k:
                index = Int(f"{index.at(ATOM - 2)} % {size.text}", ATOM - 2, 0, None, wide=False)
            high = None if size.high is None else size.high - 1
            index = Int(index.text, index.level, 0, high, wide=False)
            if not index.fits:
                index = Int(f"({index.text}).to(tl.int64)", ATOM, 0, high, wide=True)
            self.enter(loop, index)

    def count(self, loop: Loop, count: sk.IntExpr) -> Int:
        """How often a loop runs, as a number or a 32-bit local (a grid has fewer than 2^31 programs)."""
        value = int_text(count, self.ints)
        if value.literal:
            return value
        extent = int_text(simplify(sk.IntBin("-", loop.source.stop, loop.source.start)), self.ints)
        step = self.step(loop)
        text = extent.at(ATOM) if step == 1 else f"tl.cdiv({extent.text}, {step})"
        name = self.names.fresh(f"n_{loop.source.var}")
        self.line(f"{name} = {text}.to(tl.int32)")
        return Int(name, ATOM, 0, value.high, wide=False)

    def step(self, loop: Loop) -> int:
        """The lanes of a tiled loop; 1 for a scalar one."""
        return 1 if loop.axis is None else loop.axis.size

    def enter(self, loop: Loop, index: Int) -> None:
        """Names what a loop of the nest gives its body, for the iteration `index`."""
        start = combine("+", int_text(loop.source.start, self.ints), combine("*", index, number(self.step(loop))))
        self.ranges.loops[loop.source.var] = (loop.source.start, loop.source.stop)
        if loop.axis is not None:
            self.define_axis(loop.axis, start, entered=True)
        elif start.literal:
            self.ints[loop.source.var] = start
        else:
            name = self.names.fresh(loop.source.var)
            self.line(f"{name} = {start.text}")
            self.ints[loop.source.var] = Int(name, ATOM, start.low, start.high, start.wide)

    def loop(self, loop: Loop) -> None:
        """A loop: of the nest, gone because it runs once, or a `for`."""
        if loop in self.phase.nest:
            if loop is self.phase.nest[-1]:
                self.innermost(loop.block)
            else:
                self.block(loop.block)
            return
        if not self.repeats(loop):
            if trips(loop, self.step(loop)) == sk.IntConst(1):
                self.enter(loop, number(0))
                self.block(loop.block)
            return
        carried = self.around.get(loop, [])
        for accumulator in carried:
            self.values.start(accumulator, [lane_count(a) for a in accumulator.axes])
        outer, self.values.looping = self.values.looping, True
        self.repeat(loop)
        self.values.looping = outer
        for accumulator in carried:
            self.assign(accumulator.variable, self.values.finish(accumulator))

    def innermost(self, block: Block) -> None:
        """The body of the nest: twice where a mask would keep whole tiles from being read and written as vectors."""
        axis = self.tail(block)
        if axis is None:
            self.block(block)
            return
        lanes = self.values.lanes[axis]
        assert lanes.mask is not None
        last = combine("+", self.ints[axis.name], number(lanes.width))
        stop = int_text(axis.stop, self.ints)
        full = f"if {last.text} <= {stop.text}:  # a full tile: without a mask its accesses are vectors"
        for header, mask in ((full, None), ("else:", lanes.mask)):
            self.line(header)
            self.depth += 1
            self.values.lanes[axis] = replace(lanes, mask=mask)
            with self.values.branch(), self.names.loop():
                self.block(block)
            self.depth -= 1

    def tail(self, block: Block) -> Axis | None:
        """The axis along which accesses are vectors but for a mask: one that ends anywhere, in a simple body."""
        sinks = [s for item in block.items if isinstance(item, Segment) for s in item.sinks]
        stores = [s for s in sinks if isinstance(s, StoreTo)]
        simple = len(stores) == len(sinks) and not block.axes and len(self.phase.users) <= _TWICE
        if not simple or any(isinstance(item, Loop) for item in block.items):
            return None
        for loop in self.phase.nest:
            axis = loop.axis
            if axis is None or axis not in self.values.lanes or self.values.lanes[axis].mask is None:
                continue
            ends = linear(sk.IntBin("-", axis.stop, axis.start))
            if axis.size >= _VECTORS and any(factor % _VECTORS for factor in ends.values()):
                accesses = [s.access for s in stores] + [v.access for v in self.phase.users if v.access is not None]
                if all(self.vectors(access, axis) for access in accesses if axis in access_axes(access)):
                    return axis
        return None

    @staticmethod
    def vectors(access: Access, axis: Axis) -> bool:
        """Whether only the mask of an axis keeps an access from being vectors along it."""
        for index, stride in zip(access.indices, strides_of(access.tensor), strict=True):
            if isinstance(index, IndexSpan) and index.axis is axis:
                moves = stride != sk.IntConst(1) or not is_const(index.shift, 0)
            else:
                first = isinstance(index, IndexAt) and is_const(index.expr, 0)
                moves = not first and any(factor % _VECTORS for factor in linear(stride).values())
            if moves or isinstance(index, IndexGather):
                return False
        return True

    def repeats(self, loop: Loop) -> bool:
        """Whether a loop may run more than once."""
        count = trips(loop, self.step(loop))
        return not (isinstance(count, sk.IntConst) and count.value <= 1)

    def repeat(self, loop: Loop) -> None:
        """A `for`."""
        source = loop.source
        start, stop = int_text(source.start, self.ints), int_text(source.stop, self.ints)
        self.ranges.loops[source.var] = (source.start, source.stop)
        bounds = [_bound(start), _bound(stop), *([str(self.step(loop))] if self.step(loop) > 1 else [])]
        stages = self.stages(loop)
        function, options = ("range", "") if stages is None else ("tl.range", f", num_stages={stages}")
        high = None if stop.high is None else stop.high - 1
        with self.names.loop():
            name = self.names.fresh(source.var if loop.axis is None else f"{source.var}_start")
            self.line(f"for {name} in {function}({', '.join(bounds)}{options}):")
            self.depth += 1
            self.values.offsets.append({})
            before = len(self.lines)
            first = Int(name, ATOM, start.low, high, start.wide or stop.wide)
            if loop.axis is None:
                self.ints[source.var] = first
            else:
                self.define_axis(loop.axis, first, entered=True)
            self.block(loop.block)
            if len(self.lines) == before:
                self.line("pass")
            self.values.offsets.pop()
            self.depth -= 1

    def stages(self, loop: Loop) -> int | None:
        """How deep Triton may pipeline the loads of a loop; None: as deep as it is told for the launch."""
        if self.phase.hazards and self.touches_hazard(loop.block):
            return 1  # an iteration's loads must not run ahead of the stores before them
        return self.num_stages if "pipeline" in loop.source.hints else None

    def touches_hazard(self, block: Block) -> bool:
        """Whether an iteration may read what an earlier one wrote."""
        stored = {
            s.access.tensor.name
            for item in block.items
            if isinstance(item, Segment)
            for s in item.sinks
            if isinstance(s, StoreTo)
        }
        inner = any(self.touches_hazard(item.block) for item in block.items if isinstance(item, Loop))
        return bool(stored & self.phase.hazards) or inner

    # ---------------------------------------------------------------------------------------------------------- axes

    def define_axes(self, block: Block) -> None:
        """The `axis` declarations of a body."""
        for axis in block.axes:
            if axis in self.axes:
                self.ranges.loops[axis.name] = (axis.start, axis.stop)
                self.define_axis(axis, int_text(axis.start, self.ints), entered=False)
            else:
                self.ints[axis.name] = int_text(axis.start, self.ints)

    def define_axis(self, axis: Axis, start: Int, *, entered: bool) -> None:
        """The lanes of an axis and the mask of those that are live. entered: there is at least one."""
        self.ints[axis.name] = start
        if axis not in self.axes:
            return
        width = lane_count(axis)
        lanes = combine("+", start, Int(f"tl.arange(0, {width})", ATOM, 0, width - 1, wide=False))
        name = self.names.fresh(axis.name)
        self.line(f"{name} = {lanes.text}")
        lanes = Int(name, ATOM, lanes.low, lanes.high, lanes.wide)
        mask: Tile | None = None
        if not always_full(axis, width, declared=not entered):
            stop = int_text(axis.stop, self.ints)
            if width > axis.size:
                stop = combine("min", stop, combine("+", start, number(axis.size)))
            live = self.names.fresh(f"{axis.name}_mask")
            self.line(f"{live} = {name} < {stop.at(COMPARISON + 1)}")
            mask = Tile(live, ATOM, DType.BOOL, DType.BOOL, (axis,))
        never_empty = entered or int_text(simplify(sk.IntBin("-", axis.stop, axis.start)), self.ints).low not in (
            None,
            0,
        )
        self.values.lanes[axis] = Lanes(lanes, width, mask, never_empty)

    # ---------------------------------------------------------------------------------------------------- statements

    def block(self, block: Block) -> None:
        """The body of a loop."""
        self.define_axes(block)
        for item in block.items:
            if isinstance(item, Loop):
                self.loop(item)
            else:
                self.segment(item, [s for s in item.sinks if not isinstance(s, Value)])

    def segment(self, segment: Segment, sinks: list[StoreTo | SetVariable]) -> None:
        """Sinks, and values that other segments use, in the order of the program; but loads come first."""
        kept = [v for v in self.phase.users if v.home is segment and self.values.escapes(v)]
        entries: list[StoreTo | SetVariable | Value] = sorted([*sinks, *kept], key=lambda entry: entry.id)
        for n, entry in enumerate(entries):
            if (isinstance(entry, StoreTo) or n == 0) and not self.phase.hazards:
                self.values.load_ahead(entries[n:], segment)
            if isinstance(entry, Value):
                self.values.keep(entry)
            elif isinstance(entry, StoreTo):
                self.values.store(entry)
            else:
                self.set_variable(entry, entries[n + 1 :])

    def set_variable(self, sink: SetVariable, later: list[StoreTo | SetVariable | Value]) -> None:
        """An assignment. Who still needs the old value keeps it under another name."""
        variable, value = sink.variable, sink.value
        if sink in self.needless:
            return
        if sink in self.updates:
            self.values.accumulate(self.updates[sink])
            return
        if value.kind == "literal" and isinstance(value.data, float | int):
            constant = self.initial(value.data, variable)
            self.values.save_old(variable, later)
            self.assign(variable, constant)
            return
        tile = self.values.assigned(value)
        self.values.save_old(variable, later)
        self.assign(variable, tile)

    def assign(self, variable: Variable, tile: Tile) -> None:
        """``variable = tile``, in the variable's shape and type: carried tiles keep them."""
        name = self.values.variables.get(variable)
        if name is None:
            name = self.values.variables[variable] = self.names.fresh(variable.c_name)
        self.line(f"{name} = {self.values.broadcast(native(tile), variable.axes).text}")

    def initial(self, value: float | int | bool, variable: Variable) -> Tile:
        """A constant as a variable's value."""
        constant = literal(value, variable.dtype)
        if not variable.axes and variable.dtype is DType.F32:
            return replace(constant, value=None)
        sizes = ", ".join(str(self.values.lanes[a].width) for a in variable.axes)
        text = f"tl.full([{sizes}], {constant.text}, {TYPES[variable.dtype]})"
        return Tile(text, ATOM, variable.dtype, variable.dtype, variable.axes)

    def drop_unused(self) -> None:
        """Takes out definitions that nothing reads (lanes, masks and sizes are defined before it is known)."""
        dropped = True
        while dropped:
            dropped = False
            for at, line in reversed(list(enumerate(self.lines))):
                found = _ASSIGNED.match(line)
                if found is not None and not self.mentioned(found[1], at):
                    del self.lines[at]
                    dropped = True

    def mentioned(self, name: str, at: int) -> bool:
        """Whether a name that line `at` assigns is read: after it in its body, or where bodies around can see it."""
        word = re.compile(rf"\b{name}\b")
        depth = _indent(self.lines[at])
        for line in self.lines[at + 1 :]:
            if _indent(line) < depth:
                break
            if word.search(line):
                return True
        for line in reversed(self.lines[:at]):
            if _indent(line) <= depth:
                depth = _indent(line)
                if word.search(line):
                    return True
        return False


def _bound(value: Int) -> str:
    """A bound of a range. (To Triton a literal from 2^31 to 2^32 is unsigned.)"""
    return f"tl.cast({value.text}, tl.int64)" if value.literal and value.wide else value.text


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def wrapped(line: str) -> list[str]:
    """A statement in lines: a call that is too long has an argument in each."""
    found = _CALL.fullmatch(line)
    if len(line) <= _LINE or found is None:
        return [line]
    margin, head, body = found.groups()
    arguments, depth, begin = [], 0, 0
    for at, character in enumerate(body):
        depth += (character in "([") - (character in ")]")
        if depth < 0:
            return [line]  # the last bracket does not close the first
        if character == "," and depth == 0:
            arguments.append(body[begin:at].strip())
            begin = at + 1
    arguments.append(body[begin:].strip())
    return [f"{margin}{head}(", *(f"{margin}    {argument}," for argument in arguments), f"{margin})"]
