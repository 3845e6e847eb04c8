"""What the threads of a block do together: reductions, scans, products of tiles."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

from akg_dynamo.agents.lowering import cpp_ops
from akg_dynamo.agents.lowering.cpp_ops import HELD, Reg
from akg_dynamo.agents.lowering.cpp_reduce import combine, held_as, identity
from akg_dynamo.agents.lowering.cuda_c_layout import WARP, Layout
from akg_dynamo.agents.lowering.cuda_c_tiles import Axes, Held, Tiles, position
from akg_dynamo.agents.lowering.cuda_c_values import Values
from akg_dynamo.agents.lowering.ir import Axis, Value
from akg_dynamo.agents.sketch.ast import DType

Names = tuple[str, str]
"""Of the variables with a thread's part of a reduction, and with its place; the second may be "" """


@dataclass(frozen=True)
class Operand:
    """A factor of a product in shared memory: `tile`, whose rows leave `pad` elements empty, of C++ type `c_type`."""

    value: Value
    tile: str
    pad: int
    c_type: str


class Collectives:
    """Writes them, into tiles that are held."""

    def __init__(self, tiles: Tiles, values: Values) -> None:
        self.tiles = tiles
        self.text = tiles.text
        self.values = values

    def write(self, value: Value) -> None:
        """One reduce, scan or dot."""
        if value.kind == "reduce":
            self._reduce(value)
        elif value.kind == "scan":
            self._scan(value)
        else:
            self._dot(value)

    # -- reductions: in each thread, in each warp, across warps

    def _reduce(self, value: Value) -> None:
        (x,), axis = value.args, value.axis
        assert axis is not None
        own = self.tiles.layout(x.axes)
        kept = tuple(a for a in x.axes if a is not axis)
        held = held_as(x.dtype)
        start = identity(value.name, held)
        arg = value.name.startswith("arg")
        part = self.text.fresh(f"{value.hint or value.name}_part")
        place = self.text.fresh(f"{part}_at") if arg else ""
        dimensions = self.tiles.dimensions(own, kept)
        self.text.line(f"{HELD[held]} {part}{dimensions};")
        if arg:
            self.text.line(f"int64_t {place}{dimensions};")
        with ExitStack() as stack:
            element = self.tiles.subscript(kept, self.tiles.slots(own, kept, stack))
            self.text.line(f"{part}{element} = {start.text};")
            if arg:
                self.text.line(f"{place}{element} = -1;")
        with self.tiles.space(x.axes) as space, self.text.body(f"if ({space.live})" if space.live else ""):
            element = self.tiles.subscript(kept, space.slot)
            found = self.values.at(x, space)
            if arg:
                names = (part + element, place + element)
                self.text.line(f"{_arg(value)}({', '.join((*names, _plain(found), space.index[axis]))});")
            else:
                self.text.line(f"{part}{element} = {self._join(value, part + element, found.text)};")
        steps = [by for by in own.of(axis).steps if by < WARP]
        if steps:
            self._exchange(value, own, kept, (part, place), steps)
        self._across(value, own, kept, (part, place), 1 << len(steps))

    def _exchange(self, value: Value, own: Layout, kept: Axes, names: Names, steps: list[int]) -> None:
        """Afterwards the threads of a warp that share a result all have it."""
        part, place = names
        with ExitStack() as stack:
            element = self.tiles.subscript(kept, self.tiles.slots(own, kept, stack))
            for by in steps:
                other = f"shuffle_xor({part}{element}, {by})"
                if place:
                    at = f"shuffle_xor({place}{element}, {by})"
                    self.text.line(f"{_arg(value)}({part}{element}, {place}{element}, {other}, {at});")
                else:
                    name = self.text.fresh("other")
                    c_type = HELD[held_as(value.args[0].dtype)]
                    self.text.line(f"const {c_type} {name} = {other};")
                    self.text.line(f"{part}{element} = {self._join(value, part + element, name)};")

    def _across(self, value: Value, own: Layout, kept: Axes, names: Names, in_warp: int) -> None:
        """The parts of different warps, through shared memory, into the tile that holds the result."""
        assert value.axis is not None
        along = own.of(value.axis)
        part, place = names
        held = held_as(value.args[0].dtype)
        count = along.threads // in_warp
        lanes = self.tiles.layout(kept).lanes
        arrays = [("parts", HELD[held], lanes * count), ("places", "int64_t", lanes * count if place else 0)]
        shared = self.tiles.scratch(*(a for a in arrays if a[2]))
        conditions = [f"threadIdx.x < {own.active}"] if own.active < self.tiles.block else []
        if in_warp > 1:
            quotient = "threadIdx.x" if along.stride == 1 else f"threadIdx.x / {along.stride}"
            conditions.append(f"{quotient} % {in_warp} == 0")
        with ExitStack() as stack:
            if conditions:
                stack.enter_context(self.text.body(f"if ({' && '.join(conditions)})"))
            slot = self.tiles.slots(own, kept, stack)
            lane = {a: f"({position(own.of(a), slot[a])})" for a in kept}
            to = self.tiles.linear(kept, lane)
            if count > 1:
                to = f"({along.thread}) / {in_warp} * {lanes} + {to}"
            for array, name in zip(shared, (part, place), strict=False):
                self.text.line(f"{array}[{to}] = {name}{self.tiles.subscript(kept, slot)};")
        self.text.barrier()
        result = self.tiles.declare(value, value.hint or value.name, value.dtype)
        with self.tiles.space(kept) as space:
            at = self.tiles.linear(kept, space.lane)
            total = self.text.fresh("total")
            self.text.line(f"{HELD[held]} {total} = {shared[0]}[{at}];")
            if place:
                found = self.text.fresh("found")
                self.text.line(f"int64_t {found} = {shared[1]}[{at}];")
            if count > 1:
                n = self.text.fresh("n")
                with self.text.body(f"for (int {n} = 1; {n} < {count}; {n}++)"):
                    other = f"{n} * {lanes} + {at}"
                    if place:
                        both = f"{shared[0]}[{other}], {shared[1]}[{other}]"
                        self.text.line(f"{_arg(value)}({total}, {found}, {both});")
                    else:
                        self.text.line(f"{total} = {self._join(value, total, f'{shared[0]}[{other}]')};")
            final = found if place else cpp_ops.rounded(total, value.dtype)
            self.text.line(f"{self.tiles.element(result, space)} = {final};")
        if result.in_shared:
            self.text.barrier()

    def _join(self, value: Value, a: str, b: str) -> str:
        text = combine(value.name, a, b, value.args[0].dtype, False)
        return text[1:-1] if text.startswith("(") else text

    # -- scans: in shared memory, row by row

    def _scan(self, value: Value) -> None:
        (x,), axis = value.args, value.axis
        assert axis is not None
        own = self.tiles.layout(x.axes)
        along = own.of(axis)
        held = held_as(x.dtype)
        start = identity(value.name, held)
        (data,) = self.tiles.scratch(("data", HELD[held], own.lanes))
        with self.tiles.space(x.axes) as space:
            element = f"{data}[{self.tiles.linear(x.axes, space.lane)}]"
            if space.live:
                self.text.line(f"{element} = {start.text};")
            with self.text.body(f"if ({space.live})" if space.live else ""):
                self.text.line(f"{element} = {_plain(self.values.at(x, space))};")
        self.text.barrier()
        rows, c_type = own.lanes // along.width, HELD[held]
        join = combine(value.name, "a", "b", x.dtype, False)
        function = f"[]({c_type} a, {c_type} b) {{ return {c_type}{join if join.startswith('(') else f'({join})'}; }}"
        self.text.line(f"scan_rows<{along.width}, {c_type}>({data}, {rows}, {along.pitch}, {start.text}, {function});")
        self.text.barrier()
        result = self.tiles.declare(value, value.hint or "scanned", value.dtype)
        with self.tiles.space(x.axes) as space:
            element = f"{data}[{self.tiles.linear(x.axes, space.lane)}]"
            self.text.line(f"{self.tiles.element(result, space)} = {cpp_ops.rounded(element, value.dtype)};")
        if result.in_shared:
            self.text.barrier()

    # -- products

    def _dot(self, value: Value) -> None:
        own = self.tiles.layout(value.axes)
        total = self.text.fresh(f"{value.hint or 'dot'}_sum")
        self.text.line(f"{HELD[value.dtype]} {total}{self.tiles.dimensions(own, value.axes)};")
        with ExitStack() as stack:
            element = self.tiles.subscript(value.axes, self.tiles.slots(own, value.axes, stack))
            self.text.line(f"{total}{element} = 0;")
        self._products(value, total)
        result = self.tiles.declare(value, value.hint or "product", value.dtype)
        with self.tiles.writing(value), self.tiles.space(value.axes) as space:
            element = self.tiles.subscript(value.axes, space.slot)
            self.text.line(f"{self.tiles.element(result, space)} = {total}{element};")

    def accumulate(self, value: Value, into: Held) -> None:
        """Adds a product to a tile that is in registers."""
        self._products(value, into.name)

    def _products(self, value: Value, total: str) -> None:
        """Adds what each thread is to have of a product to the array of its slots."""
        axis = value.axis
        assert axis is not None
        own = self.tiles.layout(value.axes)
        c_type = HELD[value.dtype]
        sizes = [self._pitched(v) for v in value.args]
        tiles = self.tiles.scratch(*((f"{side}_tile", c_type, n) for side, (n, _) in zip("ab", sizes, strict=True)))
        operands = [Operand(v, t, pad, c_type) for v, t, (_, pad) in zip(value.args, tiles, sizes, strict=True)]
        for operand in operands:
            self._stage(value, operand)
        self.text.barrier()
        with ExitStack() as stack:
            if own.active < self.tiles.block and value.axes:
                stack.enter_context(self.text.body(f"if (threadIdx.x < {own.active})"))
            k = self.text.fresh(f"{axis.name}_lane")
            self.text.line("#pragma unroll 4")
            stack.enter_context(self.text.body(f"for (int {k} = 0; {k} < {self._count(axis)}; {k}++)"))
            sides = [self._fetch(operand, own, axis, k) for operand in operands]
            slot = self.tiles.slots(own, value.axes, stack)
            a, b = (name + self.tiles.subscript(axes, slot) for name, axes in sides)
            element = total + self.tiles.subscript(value.axes, slot)
            self.text.line(f"{element} = fma_({a}, {b}, {element});")

    def _pitched(self, operand: Value) -> tuple[int, int]:
        """How many elements an operand's tile takes in shared memory, and how many of each row are left empty."""
        own = self.tiles.layout(operand.axes)
        pad = 1 if len(operand.axes) > 1 and own.widths[-1] > 1 else 0
        return own.lanes // own.widths[-1] * (own.widths[-1] + pad), pad

    def _count(self, axis: Axis) -> str:
        """The live lanes of the summed axis."""
        lanes = self.tiles.lanes[axis]
        if lanes.full and lanes.width == axis.size:
            return str(lanes.width)
        left = f"{self.tiles.int_text(axis.stop, 1)} - {lanes.start}"
        return f"int(min2<int64_t>({min(lanes.width, axis.size)}, {left}))"

    def _stage(self, value: Value, operand: Operand) -> None:
        """An operand into shared memory; what is not live as 0."""
        source = operand.value
        with self.tiles.space(source.axes) as space:
            element = f"{operand.tile}[{self.tiles.linear(source.axes, space.lane, operand.pad)}]"
            if space.live:
                self.text.line(f"{element} = 0;")
            with self.text.body(f"if ({space.live})" if space.live else ""):
                text = cpp_ops.cast(self.values.at(source, space), value.dtype).text
                if value.name == "tf32" and source.dtype is DType.F32:
                    text = f"round_tf32({text})"
                self.text.line(f"{element} = {text};")

    def _fetch(self, operand: Operand, own: Layout, axis: Axis, k: str) -> tuple[str, Axes]:
        """What a thread needs of an operand for one step of the sum: an array over its slots."""
        axes = tuple(a for a in operand.value.axes if a is not axis)
        name = self.text.fresh(operand.tile[0])
        self.text.line(f"{operand.c_type} {name}{self.tiles.dimensions(own, axes)};")
        with ExitStack() as stack:
            slot = self.tiles.slots(own, axes, stack)
            lane = {a: f"({position(own.of(a), slot[a])})" for a in axes} | {axis: k}
            at = self.tiles.linear(operand.value.axes, lane, operand.pad)
            self.text.line(f"{name}{self.tiles.subscript(axes, slot)} = {operand.tile}[{at}];")
        return name, axes


def _arg(value: Value) -> str:
    return "arg_max" if value.name == "argmax" else "arg_min"


def _plain(reg: Reg) -> str:
    return f"{HELD[reg.dtype]}{reg.text}" if reg.text.startswith("(") else f"{HELD[reg.dtype]}({reg.text})"
