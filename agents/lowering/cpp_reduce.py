"""Reductions and scans inside a leaf: along the lanes of its vectors, or along another axis.

Along the lanes there are several accumulators, each a vector, whose lanes are combined after the loop. Sums of f32 are
added up in blocks: the accumulators take few terms each, and what they hold is added to an f64 after every block, so
that a long row is as exact as a short one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from akg_dynamo.agents.lowering import cpp_ops
from akg_dynamo.agents.lowering.cpp_ops import HELD, Reg
from akg_dynamo.agents.lowering.cpp_place import Place, lane_name
from akg_dynamo.agents.lowering.index import c_name
from akg_dynamo.agents.lowering.ir import Axis, SetVariable, StoreTo, Value
from akg_dynamo.agents.lowering.schedule import Leaf, operands
from akg_dynamo.agents.sketch.ast import DType

if TYPE_CHECKING:
    from akg_dynamo.agents.lowering.cpp_leaf import LeafEmitter, Registers

Sinks: TypeAlias = "Sequence[StoreTo | SetVariable | Value]"
_HEAVY_LEAF = 40
_SUM_BLOCK = 1024  # terms of an f32 sum before it is added to an f64
_STACK_BYTES = 1 << 16


def held_as(dtype: DType) -> DType:
    """The dtype of the register that holds it."""
    return DType.F32 if dtype in (DType.F16, DType.BF16) else dtype


def identity(op: str, dtype: DType) -> Reg:
    """What combining changes nothing."""
    if dtype is DType.BOOL:
        return Reg("true" if op in ("all", "min", "prod") else "false", dtype, False)
    if op in ("sum", "prod"):
        return cpp_ops.literal(0 if op == "sum" else 1, dtype)
    if dtype.is_float:
        return cpp_ops.literal(-math.inf if op in ("max", "argmax") else math.inf, dtype)
    bits = dtype.size_bytes * 8
    low, high = (0, 255) if dtype is DType.U8 else (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    return cpp_ops.literal(low if op in ("max", "argmax") else high, dtype)


def combine(op: str, a: str, b: str, dtype: DType, vector: bool) -> str:
    """One step of a reduction or scan, without rounding to 16 bits."""
    if dtype is DType.BOOL:
        return f"({a} {'&' if op in ('all', 'min', 'prod') else '|'} {b})"
    name = {"sum": "add", "prod": "mul", "max": "maximum", "min": "minimum"}[op]
    held = held_as(dtype)
    return cpp_ops.operation(name, [Reg(a, held, vector), Reg(b, held, vector)], held).text


class Reductions:
    """Writes the reductions and scans of one leaf, in the places that its emitter knows."""

    def __init__(self, emitter: LeafEmitter) -> None:
        self.emitter = emitter
        self.blocks = emitter.blocks
        self.found: dict[Value, Value] = {}  # a maximum -> the arg-max of the same values, which finds it on the way

    # -- along the lanes of a vector

    def vector_loop(self, sinks: Sinks, axis: Axis) -> None:
        """The loop over the vectors of an axis, between what accumulates before and what is combined after."""
        across = [s for s in sinks if isinstance(s, Value) and s.axis is axis and s.kind == "reduce"]
        self.found = {m: s for s in across if _is_arg(s) for m in across if _is_extreme_of(m, s)}
        cost = sum(self.emitter.schedule.cost(v) for s in sinks for v in operands(s))
        unroll = 1 if not across else 2 if cost > _HEAVY_LEAF else 4
        sums = [s for s in across if _is_rounded_sum(s)] if axis.size > _SUM_BLOCK else []
        for sink in sinks:
            if isinstance(sink, Value) and sink.axis is axis and sink not in sums:
                self._start_across(sink, unroll)
        name = c_name(axis.c_name)
        if not sums:
            self.emitter.lanes(axis, unroll, sinks)
        else:
            for sink in sums:
                self.blocks.declare(f"double sum_of_{sink.id} = 0;")
            block, end = f"{name}_block", f"{name}_end"
            self.blocks.line(f"for (int64_t {block} = {name}; {block} < {end}; {block} += {_SUM_BLOCK}) {{")
            self.blocks.depth += 1
            for sink in sums:
                self._start_across(sink, unroll)
            self.emitter.lanes(axis, unroll, sinks, (block, f"min2<int64_t>({block} + {_SUM_BLOCK}, {end})"))
            for sink in sums:
                self.blocks.line(self._qualified(f"sum_of_{sink.id} += {self._combined(sink, unroll)};"))
            self.blocks.depth -= 1
            self.blocks.line("}")
        for sink in sorted(across, key=lambda s: not _is_arg(s)):
            if sink in sums:
                total = Reg(f"(float)sum_of_{sink.id}", DType.F32, False)
                self.blocks.line(self.blocks.places[sink].write(total, None))
            else:
                self._finish_across(sink, unroll, axis)

    def _start_across(self, value: Value, unroll: int) -> None:
        x = value.args[0]
        name = f"acc_{value.id}"
        if value.kind == "scan":
            start = identity(value.name, held_as(x.dtype))
            self.blocks.declare(f"{HELD[x.dtype]} carry_{value.id} = {start.text};")
            return
        if _is_arg(value):
            held, index = _arg_types(x.dtype)
            start = identity(value.name, _arg_dtype(x.dtype))
            self._declare(f"V<{held}>", name, cpp_ops.spread(start).text, unroll)
            self._declare(f"V<{index}>", f"at_{value.id}", f"splat<{index}>(-1)", unroll)
            return
        if value in self.found:
            return
        start = identity(value.name, held_as(x.dtype))
        if x.dtype is DType.BOOL:
            lane = f"int{8 * self._mask_width(x)}_t"
            self._declare(f"V<{lane}>", name, f"splat<{lane}>({'-1' if start.text == 'true' else '0'})", unroll)
            return
        self._declare(
            cpp_ops.vector_type(x.dtype), name, "" if value.name == "sum" else cpp_ops.spread(start).text, unroll
        )

    def _declare(self, c_type: str, name: str, start: str, unroll: int) -> None:
        starts = ", ".join([start] * unroll) if start else ""
        self.blocks.declare(self._qualified(f"{c_type} {name}[{unroll}] = {{{starts}}};"))

    def _qualified(self, line: str) -> str:
        return self.blocks.qualified(line, self.emitter.lane_bytes)

    def _mask_width(self, value: Value) -> int:
        """A lane width wide enough for the mask of a bool value: that of what it compares."""
        if value.kind == "load" or not value.args:
            return 1
        if value.dtype is not DType.BOOL:
            return self.emitter.lane_bytes if value in self.emitter.counted else cpp_ops.held_bytes(value.dtype)
        return max(self._mask_width(a) for a in value.args)

    def step(self, value: Value, reg: Reg) -> None:
        """One lane's or vector's contribution."""
        if value.axis is self.emitter.vector:
            self._step_across(value, reg)
        elif _is_arg(value):
            self._arg_along(value, reg)
        else:
            self._step_along(value, reg)

    def _step_across(self, value: Value, reg: Reg) -> None:
        x, axis = value.args[0], value.axis
        assert axis is not None
        if value in self.found:
            return
        if _is_arg(value):
            held, index = _arg_types(x.dtype)
            other = identity(value.name, _arg_dtype(x.dtype)).text
            text = f"keep({_arg_operand(cpp_ops.spread(reg), held, True)}, {other}, n)"
            here = f"{index}({lane_name(axis)} - {c_name(axis.c_name)})"
            self.blocks.line(f"arg_step<{_sign(value)}>(acc_{value.id}[u], at_{value.id}[u], {text}, {here});")
            return
        start = identity(value.name, held_as(x.dtype))
        other = ("-1" if start.text == "true" else "0") if x.dtype is DType.BOOL else start.text
        wide = cpp_ops.as_mask(reg, self._mask_width(x)) if x.dtype is DType.BOOL else cpp_ops.spread(reg)
        kept = f"keep({wide.text}, {other}, n)"
        self.blocks.line(f"acc_{value.id}[u] = {combine(value.name, f'acc_{value.id}[u]', kept, x.dtype, True)};")

    def _combined(self, value: Value, unroll: int) -> str:
        """The accumulators' lanes as one number."""
        x = value.args[0]
        total = [f"acc_{value.id}[{u}]" for u in range(unroll)]
        while len(total) > 1:
            total = [combine(value.name, a, b, x.dtype, True) for a, b in zip(total[::2], total[1::2], strict=True)]
        vector = f"V<int{8 * self._mask_width(x)}_t>" if x.dtype is DType.BOOL else cpp_ops.vector_type(x.dtype)
        step = combine(value.name, "a", "b", x.dtype, True)
        text = f"across({total[0]}, []({vector} a, {vector} b) INLINE {{ return {step}; }})"
        return f"({text} != 0)" if x.dtype is DType.BOOL else text

    def _finish_across(self, value: Value, unroll: int, axis: Axis) -> None:
        place = self.blocks.places[value]
        if _is_arg(value):
            found = f"found_{value.id}"
            call = f"arg_across<{_sign(value)}, {unroll}>(acc_{value.id}, at_{value.id})"
            self.blocks.line(self._qualified(f"const auto {found} = {call};"))
            self.blocks.line(place.write(Reg(f"{c_name(axis.c_name)} + {found}.at", DType.I64, False), None))
            return
        arg = self.found.get(value)
        text = self._combined(value, unroll) if arg is None else f"found_{arg.id}.value"
        self.blocks.line(self._qualified(place.write(Reg(text, held_as(value.dtype), False), None)))

    # -- reductions and scans along another axis than the vector's

    def start_along(self, value: Value, leaf: Leaf) -> None:
        """Before the loop over the axis: what accumulates gets its first value."""
        vector = (
            leaf.path[-1] if leaf.path[-1] is self.emitter.plan.vector and leaf.path[-1] is not value.axis else None
        )
        x = value.args[0]
        starts: list[tuple[Place, Reg]] = []
        if value.kind == "scan":
            place = Place(f"carry_{value.id}", (vector,) if vector else (), held_as(x.dtype))
            self.blocks.declare(place.declaration(_STACK_BYTES))
            starts.append((place, identity(value.name, held_as(x.dtype))))
        elif _is_arg(value):
            assert value.axis is not None
            starts.append((self.blocks.places[value], Reg(c_name(value.axis.c_name), DType.I64, False)))
            best = self._best_place(value, vector)
            self.blocks.declare(best.declaration(_STACK_BYTES))
            starts.append((best, identity(value.name, best.dtype)))
        else:
            starts.append((self._acc_place(value), identity(value.name, held_as(x.dtype))))

        def write() -> None:
            for place, start in starts:
                self.blocks.line(place.write(start, vector))

        if vector is None:
            write()
        else:
            self.emitter.lane_bytes = self.emitter.schedule.lane_bytes_of(leaf, vector)
            self.emitter.lanes(vector, 1, write)

    def _step_along(self, value: Value, reg: Reg) -> None:
        x, vector = value.args[0], self.emitter.vector
        place = self._acc_place(value)
        dtype = held_as(x.dtype)
        old = place.read(vector)
        if vector is not None:
            reg = cpp_ops.as_mask(reg, 1) if dtype is DType.BOOL else cpp_ops.spread(reg)
        text = combine(value.name, old.text, reg.text, x.dtype, vector is not None)
        total = Reg(text, dtype, vector is not None, int(dtype is DType.BOOL and vector is not None))
        self.blocks.line(place.write(total, vector))

    def _acc_place(self, value: Value) -> Place:
        place = self.blocks.places[value]
        return Place(place.name, place.dims, held_as(place.dtype))

    def _best_place(self, value: Value, vector: Axis | None) -> Place:
        return Place(f"best_{value.id}", (vector,) if vector else (), _arg_dtype(value.args[0].dtype))

    def _arg_along(self, value: Value, reg: Reg) -> None:
        vector, place = self.emitter.vector, self.blocks.places[value]
        best = self._best_place(value, vector)
        assert value.axis is not None
        here = lane_name(value.axis)
        held, _ = _arg_types(value.args[0].dtype)
        if vector is None:
            text = f"{best.read(None).text}, {place.read(None).text}, {_arg_operand(reg, held, False)}, {here}"
            self.blocks.line(f"arg_scalar<{_sign(value)}, {held}>({text});")
            return
        text = _arg_operand(cpp_ops.spread(reg), held, True)
        self.blocks.line(f"auto best = {best.read(vector).text};")
        self.blocks.line(f"auto at = {place.read(vector).text};")
        self.blocks.line(f"arg_step<{_sign(value)}>(best, at, {text}, {here});")
        self.blocks.line(best.write(Reg("best", best.dtype, True), vector))
        self.blocks.line(place.write(Reg("at", DType.I64, True), vector))

    def scan_step(self, value: Value, registers: Registers) -> None:
        """One lane's or vector's running value, into `registers`."""
        x = value.args[0]
        held = held_as(x.dtype)
        reg = registers[x]
        name = f"scan_{value.id}"
        vector = self.emitter.vector
        in_vector = vector is not None
        if value.axis is vector:
            vector_type = cpp_ops.vector_type(held)
            step = combine(value.name, "a", "b", held, True)
            function = f"[]({vector_type} a, {vector_type} b) INLINE {{ return {step}; }}"
            inner = f"scan_lanes({cpp_ops.spread(reg).text}, {function})"
            text = combine(value.name, cpp_ops.spread(Reg(f"carry_{value.id}", held, False)).text, inner, held, True)
            self.blocks.line(f"const {cpp_ops.vector_type(held)} {name} = {text};")
            self.blocks.line(f"carry_{value.id} = {name}[n.n - 1];")
        else:
            place = Place(f"carry_{value.id}", (vector,) if vector else (), held)
            wide = cpp_ops.spread(reg) if in_vector else reg
            text = combine(value.name, place.read(vector).text, wide.text, held, in_vector)
            self.blocks.line(f"const {Reg('', held, in_vector).c_type} {name} = {text};")
            self.blocks.line(place.write(Reg(name, held, in_vector), vector))
        registers[value] = Reg(cpp_ops.rounded(name, value.dtype), value.dtype, in_vector)


def _is_arg(value: Value) -> bool:
    return value.name in ("argmax", "argmin")


def _is_extreme_of(value: Value, arg: Value) -> bool:
    """Whether it is the value that an arg-max finds."""
    x = value.args[0]
    return value.name == arg.name[3:] and x is arg.args[0] and _arg_dtype(x.dtype) is held_as(x.dtype)


def _is_rounded_sum(value: Value) -> bool:
    return value.name == "sum" and HELD[value.args[0].dtype] == "float"


def _sign(value: Value) -> int:
    return 1 if value.name == "argmax" else -1


def _arg_dtype(dtype: DType) -> DType:
    """How arg-reductions hold values: with lanes wide enough for a position."""
    return DType.I32 if dtype is DType.BOOL or (dtype.is_int and dtype.size_bytes < 4) else held_as(dtype)


def _arg_types(dtype: DType) -> tuple[str, str]:
    """Their values and positions in C++, which have lanes of one width."""
    held = _arg_dtype(dtype)
    return HELD[held], "int64_t" if held.size_bytes == 8 else "int32_t"


def _arg_operand(reg: Reg, held: str, vector: bool) -> str:
    if HELD[reg.dtype] == held:
        return reg.text
    if not vector:
        return f"{held}({reg.text})"
    wide = f"cvt<V<{held}>>({reg.text})"
    return f"(-{wide})" if reg.dtype is DType.BOOL else wide
