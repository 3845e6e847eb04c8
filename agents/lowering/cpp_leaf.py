"""The innermost loops: values in registers, reductions and scans, stores."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from akg_dynamo.agents.lowering import cpp_memory, cpp_ops
from akg_dynamo.agents.lowering.cpp_memory import Names
from akg_dynamo.agents.lowering.cpp_ops import HELD, Reg
from akg_dynamo.agents.lowering.index import c_name, c_text
from akg_dynamo.agents.lowering.ir import Axis, SetVariable, StoreTo, Value, Variable
from akg_dynamo.agents.lowering.schedule import Leaf, Plan, operands
from akg_dynamo.agents.sketch.ast import DType
from akg_dynamo.core.errors import LoweringError

if TYPE_CHECKING:
    from akg_dynamo.agents.lowering.cpp_emit import BlockEmitter

Registers: TypeAlias = "dict[Value, Reg]"
_LONG = 90  # characters of an expression that get a name
_HEAVY_LEAF = 40
_LANE_ARGUMENTS = "[[maybe_unused]] auto n, [[maybe_unused]] auto u"


def lane_name(axis: Axis) -> str:
    """The C++ name of the current lane of an axis."""
    return axis.c_name * 2 if len(axis.c_name) == 1 else f"{axis.c_name}_lane"


@dataclass(frozen=True)
class Place:
    """A local scalar (no dims) or a buffer over the lanes of `dims`, in the form values are held; bool as bytes."""

    name: str
    dims: tuple[Axis, ...]
    dtype: DType

    @property
    def element(self) -> str:
        """Its C++ element type."""
        return "uint8_t" if self.dtype is DType.BOOL and self.dims else HELD[self.dtype]

    def declaration(self, stack_bytes: int) -> str:
        """Its definition, uninitialised. Buffers too large for the stack belong to the thread."""
        if not self.dims:
            return f"{self.element} {self.name};"
        count = math.prod(a.size for a in self.dims)
        storage = "static thread_local " if count * cpp_ops.held_bytes(self.dtype) > stack_bytes else ""
        return f"alignas(64) {storage}{self.element} {self.name}[{count}];"

    def _offset(self) -> str:
        text = ""
        for axis in self.dims:
            lane = f"{lane_name(axis)} - {c_name(axis.c_name)}"
            text = f"({text}) * {axis.size} + {lane}" if text else lane
        return text

    def _step(self, vector: Axis | None) -> int:
        if vector not in self.dims:
            return 0
        return math.prod(a.size for a in self.dims[self.dims.index(vector) + 1 :])

    def read(self, vector: Axis | None) -> Reg:
        """The value at the current lanes."""
        if not self.dims:
            return Reg(self.name, self.dtype, False)
        step = self._step(vector)
        is_bool = self.dtype is DType.BOOL
        if not step:
            text = f"{self.name}[{self._offset()}]"
            return Reg(f"({text} != 0)" if is_bool else text, self.dtype, False)
        place = f"&{self.name}[{self._offset()}]"
        text = f"load({place}, n)" if step == 1 else f"load_strided({place}, {step}, n)"
        return Reg(f"({text} != 0)" if is_bool else text, self.dtype, True, int(is_bool))

    def write(self, reg: Reg, vector: Axis | None) -> str:
        """The statement that stores a value at the current lanes."""
        if not self.dims:
            return f"{self.name} = {reg.text};"
        step = self._step(vector)
        if not step:
            return f"{self.name}[{self._offset()}] = {reg.text};"
        reg = cpp_ops.spread(reg)
        text = cpp_ops.to_store(reg) if self.dtype is DType.BOOL else reg.text
        place = f"&{self.name}[{self._offset()}]"
        if step == 1:
            return f"store<{self.element}>({place}, {text}, n);"
        return f"store_strided<{self.element}>({place}, {step}, {text}, n);"


def _held_as(dtype: DType) -> DType:
    return DType.F32 if dtype in (DType.F16, DType.BF16) else dtype


def identity(op: str, dtype: DType) -> Reg:
    """What combining changes nothing."""
    if dtype is DType.BOOL:
        return Reg("true" if op in ("all", "min", "prod") else "false", dtype, False)
    if op in ("sum", "prod"):
        return cpp_ops.literal(0 if op == "sum" else 1, dtype)
    if dtype.is_float:
        return cpp_ops.literal(-math.inf if op == "max" else math.inf, dtype)
    bits = dtype.size_bytes * 8
    low, high = (0, 255) if dtype is DType.U8 else (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    return cpp_ops.literal(low if op == "max" else high, dtype)


def combine(op: str, a: str, b: str, dtype: DType, vector: bool) -> str:
    """One step of a reduction or scan, without rounding to 16 bits."""
    if dtype is DType.BOOL:
        return f"({a} {'&' if op in ('all', 'min', 'prod') else '|'} {b})"
    name = {"sum": "add", "prod": "mul", "max": "maximum", "min": "minimum"}[op]
    held = _held_as(dtype)
    return cpp_ops.operation(name, [Reg(a, held, vector), Reg(b, held, vector)], held).text


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
        self.names = Names(blocks.ranges, {}, lane_name)

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
        trivial = value.kind in ("literal", "index") or (
            not reg.vector and reg.text.isidentifier() and value.kind != "variable"
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
                return Reg(f"splat<int64_t>({lane}) + iota<int64_t>()", DType.I64, True)
            return Reg(lane, DType.I64, False)
        if value.kind == "load":
            return cpp_memory.load(value, self.names, registers, self.vector, self.blocks.turned.get(value))
        if value.kind == "cast":
            return cpp_ops.cast(registers[value.args[0]], value.dtype, only_stored=self._only_stored(value))
        if value.kind == "op":
            operands = [registers[a] for a in value.args]
            return cpp_ops.operation(value.name, operands, value.dtype, only_stored=self._only_stored(value))
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
            self._body(sinks, self.registers)
        else:
            self.lane_bytes = self.schedule.lane_bytes_of(leaf, axis)
            self._vector_loop(sinks, axis)
        for sink in sinks:
            if isinstance(sink, Value) and sink in self.blocks.places:
                self.blocks.stored.add(sink)
                if axis is not None or sink.kind == "reduce":
                    self.registers.pop(sink, None)

    def _vector_loop(self, sinks: list[StoreTo | SetVariable | Value], axis: Axis) -> None:
        across = [s for s in sinks if isinstance(s, Value) and s.axis is axis and s.kind == "reduce"]
        cost = sum(self.schedule.cost(v) for s in sinks for v in operands(s))
        unroll = 1 if not across else 2 if cost > _HEAVY_LEAF else 4
        for sink in sinks:
            if isinstance(sink, Value) and sink.axis is axis:
                self._start_across(sink, unroll)
        self._lanes(axis, unroll, lambda: self._body(sinks, dict(self.registers)))
        for sink in across:
            self._finish_across(sink, unroll, axis)

    def _lanes(self, axis: Axis, unroll: int, write: Callable[[], None]) -> None:
        """A loop over the vectors of an axis, whose body `write` writes."""
        blocks = self.blocks
        name, lane = c_name(axis.c_name), lane_name(axis)
        head = len(blocks.lines)
        blocks.line("")
        blocks.depth += 1
        self.vector = axis
        write()
        self.vector = None
        blocks.depth -= 1
        captures = blocks.captures(head)
        borrowed = blocks.borrow("\n".join(blocks.lines[head + 1 :]), self.lane_bytes)
        if borrowed:
            blocks.lines.insert(head + 1, "  " * (blocks.depth + 1) + f"using {', '.join(borrowed)};")
        call = blocks.qualified(f"lanes<{unroll}>", self.lane_bytes)
        blocks.lines[head] = (
            "  " * blocks.depth
            + f"{call}({name}, {name}_end, [{captures}](int64_t {lane}, {_LANE_ARGUMENTS}) INLINE {{"
        )
        blocks.line("});")

    def _body(self, sinks: list[StoreTo | SetVariable | Value], registers: Registers) -> None:
        updates: list[SetVariable] = []
        for sink in sinks:
            for value in sorted(self.schedule.closure(sink), key=lambda v: v.id):
                if value not in registers:
                    self._define(value, registers, named=False)
            if isinstance(sink, StoreTo):
                turned = self.blocks.turned.get(sink)
                self.blocks.line(cpp_memory.store(sink, self.names, registers, self.vector, turned))
            elif isinstance(sink, SetVariable):
                updates.append(sink)
            elif sink.kind == "reduce":
                self._step(sink, registers[sink.args[0]])
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
            self.blocks.line(self.blocks.variables[update.variable].write(registers[update.value], self.vector))

    def _keep(self, value: Value, registers: Registers) -> None:
        if value.kind == "scan":
            self._scan_step(value, registers)
        elif value not in registers:
            reg = self._compute_fresh(value, registers)
            name = f"{c_name(value.hint) if value.hint else 't'}{value.id}"
            self.blocks.line(f"const {reg.c_type} {name} = {reg.text};")
            registers[value] = Reg(name, reg.dtype, reg.vector, reg.mask_bytes)
        if value in self.blocks.places:
            self.blocks.line(self.blocks.places[value].write(registers[value], self.vector))

    # -- reductions and scans along the lanes of a vector

    def _start_across(self, value: Value, unroll: int) -> None:
        x = value.args[0]
        name = f"acc_{value.id}"
        if value.kind == "scan":
            start = identity(value.name, _held_as(x.dtype))
            self.blocks.declare(f"{HELD[x.dtype]} carry_{value.id} = {start.text};")
            return
        if value.name.startswith("arg"):
            held, index = _arg_types(x.dtype)
            starts = ", ".join([f"splat<{index}>(-1)"] * unroll)
            self._declare(f"V<{held}> {name}[{unroll}] = {{}};")
            self._declare(f"V<{index}> at_{value.id}[{unroll}] = {{{starts}}};")
            return
        start = identity(value.name, _held_as(x.dtype))
        if x.dtype is DType.BOOL:
            full = "-1" if start.text == "true" else "0"
            width = self.mask_width(x)
            lane = f"int{8 * width}_t"
            starts = ", ".join([f"splat<{lane}>({full})"] * unroll)
            self._declare(f"V<{lane}> {name}[{unroll}] = {{{starts}}};")
            return
        vector = cpp_ops.vector_type(x.dtype)
        starts = "" if value.name == "sum" else ", ".join([cpp_ops.spread(start).text] * unroll)
        self._declare(f"{vector} {name}[{unroll}] = {{{starts}}};")

    def _declare(self, line: str) -> None:
        self.blocks.declare(self.blocks.qualified(line, self.lane_bytes))

    def mask_width(self, value: Value) -> int:
        """A lane width wide enough for the mask of a bool value: that of what it compares."""
        if value.kind == "load" or not value.args:
            return 1
        if value.dtype is not DType.BOOL:
            return cpp_ops.held_bytes(value.dtype)
        return max(self.mask_width(a) for a in value.args)

    def _step(self, value: Value, reg: Reg) -> None:
        """One lane's or vector's contribution."""
        x = value.args[0]
        is_arg = value.name.startswith("arg")
        if value.axis is self.vector:
            if is_arg:
                held, index = _arg_types(x.dtype)
                text = _arg_operand(cpp_ops.spread(reg), held, True)
                start = c_name(self.vector.c_name) if self.vector is not None else "0"
                here = f"{index}({lane_name(value.axis)} - {start})" if value.axis is not None else "0"
                self.blocks.line(f"arg_step<{_sign(value)}>(acc_{value.id}[u], at_{value.id}[u], {text}, {here}, n);")
                return
            start_reg = identity(value.name, _held_as(x.dtype))
            other = ("-1" if start_reg.text == "true" else "0") if x.dtype is DType.BOOL else start_reg.text
            wide = cpp_ops.as_mask(reg, self.mask_width(x)) if x.dtype is DType.BOOL else cpp_ops.spread(reg)
            kept = f"keep({wide.text}, {other}, n)"
            self.blocks.line(f"acc_{value.id}[u] = {combine(value.name, f'acc_{value.id}[u]', kept, x.dtype, True)};")
            return
        place = self._acc_place(value)
        if is_arg:
            self._arg_along(value, reg)
            return
        dtype = _held_as(x.dtype)
        old = place.read(self.vector)
        in_vector = self.vector is not None
        if in_vector:
            reg = cpp_ops.as_mask(reg, 1) if dtype is DType.BOOL else cpp_ops.spread(reg)
        text = combine(value.name, old.text, reg.text, x.dtype, in_vector)
        total = Reg(text, dtype, in_vector, int(dtype is DType.BOOL and in_vector))
        self.blocks.line(place.write(total, self.vector))

    def _acc_place(self, value: Value) -> Place:
        place = self.blocks.places[value]
        return Place(place.name, place.dims, _held_as(place.dtype))

    def _finish_across(self, value: Value, unroll: int, axis: Axis) -> None:
        x = value.args[0]
        name = f"acc_{value.id}"
        place = self.blocks.places[value]
        if value.name.startswith("arg"):
            text = f"{c_name(axis.c_name)} + arg_across<{_sign(value)}, {unroll}>({name}, at_{value.id})"
            self._write(place, Reg(text, DType.I64, False))
            return
        total = [f"{name}[{u}]" for u in range(unroll)]
        while len(total) > 1:
            total = [combine(value.name, a, b, x.dtype, True) for a, b in zip(total[::2], total[1::2], strict=True)]
        vector = f"V<int{8 * self.mask_width(x)}_t>" if x.dtype is DType.BOOL else cpp_ops.vector_type(x.dtype)
        step = combine(value.name, "a", "b", x.dtype, True)
        text = f"across({total[0]}, []({vector} a, {vector} b) INLINE {{ return {step}; }})"
        if x.dtype is DType.BOOL:
            text = f"({text} != 0)"
        self._write(place, Reg(text, _held_as(value.dtype), False))

    def _write(self, place: Place, reg: Reg) -> None:
        self.blocks.line(self.blocks.qualified(place.write(reg, None), self.lane_bytes))

    # -- reductions and scans along another axis than the vector's

    def start_along(self, value: Value, leaf: Leaf) -> None:
        """Before the loop over the axis: what accumulates gets its first value."""
        vector = leaf.path[-1] if leaf.path[-1] is self.plan.vector and leaf.path[-1] is not value.axis else None
        x = value.args[0]
        starts: list[tuple[Place, Reg]] = []
        if value.kind == "scan":
            place = Place(f"carry_{value.id}", (vector,) if vector else (), _held_as(x.dtype))
            self.blocks.declare(place.declaration(1 << 16))
            starts.append((place, identity(value.name, _held_as(x.dtype))))
        elif value.name.startswith("arg"):
            starts.append((self.blocks.places[value], cpp_ops.literal(-1, DType.I64)))
            best = self._best_place(value, vector)
            self.blocks.declare(best.declaration(1 << 16))
            starts.append((best, cpp_ops.literal(0, best.dtype)))
        else:
            starts.append((self._acc_place(value), identity(value.name, _held_as(x.dtype))))

        def write() -> None:
            for place, start in starts:
                self.blocks.line(place.write(start, vector))

        if vector is None:
            write()
        else:
            self.lane_bytes = self.schedule.lane_bytes_of(leaf, vector)
            self._lanes(vector, 1, write)

    def _best_place(self, value: Value, vector: Axis | None) -> Place:
        x = value.args[0].dtype
        dtype = DType.I32 if x is DType.BOOL or (x.is_int and x.size_bytes < 4) else _held_as(x)
        return Place(f"best_{value.id}", (vector,) if vector else (), dtype)

    def _arg_along(self, value: Value, reg: Reg) -> None:
        place = self.blocks.places[value]
        best = self._best_place(value, self.vector)
        assert value.axis is not None
        here = lane_name(value.axis)
        held, _ = _arg_types(value.args[0].dtype)
        if self.vector is None:
            text = _arg_operand(reg, held, False)
            self.blocks.line(
                f"arg_scalar<{_sign(value)}, {held}>({best.read(None).text}, {place.read(None).text}, {text}, {here});"
            )
            return
        text = _arg_operand(cpp_ops.spread(reg), held, True)
        self.blocks.line(f"auto best = {best.read(self.vector).text};")
        self.blocks.line(f"auto at = {place.read(self.vector).text};")
        self.blocks.line(f"arg_step<{_sign(value)}>(best, at, {text}, {here}, n);")
        self.blocks.line(best.write(Reg("best", best.dtype, True), self.vector))
        self.blocks.line(place.write(Reg("at", DType.I64, True), self.vector))

    def _scan_step(self, value: Value, registers: Registers) -> None:
        x = value.args[0]
        held = _held_as(x.dtype)
        reg = registers[x]
        name = f"scan_{value.id}"
        in_vector = self.vector is not None
        if value.axis is self.vector:
            vector_type = cpp_ops.vector_type(held)
            step = combine(value.name, "a", "b", held, True)
            function = f"[]({vector_type} a, {vector_type} b) INLINE {{ return {step}; }}"
            inner = f"scan_lanes({cpp_ops.spread(reg).text}, {function})"
            text = combine(value.name, cpp_ops.spread(Reg(f"carry_{value.id}", held, False)).text, inner, held, True)
            self.blocks.line(f"const {cpp_ops.vector_type(held)} {name} = {text};")
            self.blocks.line(f"carry_{value.id} = {name}[n.n - 1];")
        else:
            place = Place(f"carry_{value.id}", (self.vector,) if self.vector else (), held)
            wide = cpp_ops.spread(reg) if in_vector else reg
            text = combine(value.name, place.read(self.vector).text, wide.text, held, in_vector)
            self.blocks.line(f"const {Reg('', held, in_vector).c_type} {name} = {text};")
            self.blocks.line(place.write(Reg(name, held, in_vector), self.vector))
        registers[value] = Reg(cpp_ops.rounded(name, value.dtype), value.dtype, in_vector)


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


def _sign(value: Value) -> int:
    return 1 if value.name == "argmax" else -1


def _arg_types(dtype: DType) -> tuple[str, str]:
    """How arg-reductions hold values and offsets: lanes of one width, wide enough for an offset."""
    if dtype is DType.BOOL or (dtype.is_int and dtype.size_bytes < 4):
        return "int32_t", "int32_t"
    return HELD[dtype], "int64_t" if cpp_ops.held_bytes(dtype) == 8 else "int32_t"


def _arg_operand(reg: Reg, held: str, vector: bool) -> str:
    if HELD[reg.dtype] == held:
        return reg.text
    if not vector:
        return f"{held}({reg.text})"
    wide = f"cvt<V<{held}>>({reg.text})"
    return f"(-{wide})" if reg.dtype is DType.BOOL else wide
