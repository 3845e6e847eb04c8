"""Where tiles are while a block works on them, and the lanes of a tile one after the other.

A tile that is only used by its own lanes is in registers, an array of the slots of each thread. One that others use too
is in shared memory, row by row. A tile without axes is a plain variable that every thread has.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from akg_dynamo.agents.lowering.cpp_ops import HELD, Reg
from akg_dynamo.agents.lowering.cuda_c_layout import Along, Layout, layout
from akg_dynamo.agents.lowering.cuda_c_text import Text
from akg_dynamo.agents.lowering.index import c_text
from akg_dynamo.agents.lowering.ir import Axis, Value, Variable
from akg_dynamo.agents.sketch import ast as sk
from akg_dynamo.agents.sketch.ast import DType

Axes = tuple[Axis, ...]
_ALIGNMENT = 16


@dataclass(frozen=True)
class Lanes:
    """An axis in scope: its first lane as text, how many its tiles have, whether all of them are always live."""

    start: str
    width: int
    full: bool


@dataclass(frozen=True)
class Held:
    """A tile that is somewhere, as `name`."""

    name: str
    dtype: DType
    axes: Axes
    in_shared: bool


@dataclass
class Space:
    """The lanes of tiles with these axes, inside loops over a thread's slots.

    slot, lane, index: of each axis, the thread's slot, the lane in the tile and in the whole extent. live: the
    condition under which the lane counts; "" if it always does. done: what has been computed for this lane.
    """

    axes: Axes
    slot: dict[Axis, str]
    lane: dict[Axis, str]
    index: dict[Axis, str]
    live: str
    done: dict[Value, Reg] = field(default_factory=dict)


@dataclass
class Uses:
    """Who reads what: filled while a phase is written, and what the next writing of it is guided by.

    evaluated: the places (a count and the axes of the lanes) at which a value is computed. read: the axes of the lanes
    that read a tile which is held.
    """

    evaluated: dict[Value, set[tuple[int, Axes]]] = field(default_factory=dict)
    read: dict[Value | Variable, set[Axes]] = field(default_factory=dict)


class Tiles:
    """The tiles of one phase. `shared_bytes` is what they need when all is written."""

    def __init__(self, text: Text, block: int, squares: set[Axes], in_shared: set[Value | Variable]) -> None:
        self.text = text
        self.block = block
        self.squares = squares
        self.in_shared = in_shared
        self.fastest: dict[Axes, int] = {}
        self.lanes: dict[Axis, Lanes] = {}
        self.held: dict[Value | Variable, Held] = {}
        self.uses = Uses()
        self.regions: list[tuple[str, str, int]] = []  # name, C++ type, elements
        self.scratch_bytes = 0
        self.ints: Mapping[str, str] = {}

    def layout(self, axes: Axes) -> Layout:
        """Of all tiles with these axes."""
        widths = tuple(self.lanes[a].width for a in axes)
        fastest = self.fastest.get(axes, len(axes) - 1)
        return layout(axes, widths, self.block, fastest, square=axes in self.squares)

    # -- lanes

    @contextmanager
    def space(self, axes: Axes) -> Iterator[Space]:
        """What is written inside is done for each lane that this thread has; dead ones too."""
        own = self.layout(axes)
        with ExitStack() as stack:
            if own.active < self.block and axes:
                stack.enter_context(self.text.body(f"if (threadIdx.x < {own.active})"))
            slot = self.slots(own, axes, stack)
            lane: dict[Axis, str] = {}
            index: dict[Axis, str] = {}
            live: list[str] = []
            for axis in axes:
                along, known = own.of(axis), self.lanes[axis]
                lane[axis] = self.text.fresh(f"{axis.name}_lane")
                self.text.line(f"const int {lane[axis]} = {position(along, slot[axis])};")
                index[axis] = self.text.fresh(axis.name)
                start = "" if known.start == "0" else f"{known.start} + "
                self.text.line(f"const int64_t {index[axis]} = {start}{lane[axis]};")
                if not known.full:
                    live.append(f"{index[axis]} < {self.int_text(axis.stop, 1)}")
                if known.width > axis.size:
                    live.append(f"{lane[axis]} < {axis.size}")
            yield Space(axes, slot, lane, index, " && ".join(live))

    def slots(self, own: Layout, axes: Axes, stack: ExitStack) -> dict[Axis, str]:
        """Loops over the slots along some axes of a layout, until the stack is closed."""
        slot: dict[Axis, str] = {}
        for axis in axes:
            count = own.of(axis).slots
            slot[axis] = "0"
            if count > 1:
                slot[axis] = self.text.fresh(f"{axis.name}_slot")
                self.text.line("#pragma unroll")
                head = f"for (int {slot[axis]} = 0; {slot[axis]} < {count}; {slot[axis]}++)"
                stack.enter_context(self.text.body(head))
        return slot

    def int_text(self, expr: sk.IntExpr, outer: int = 0) -> str:
        """An integer expression of the sketch."""
        return c_text(expr, self.ints, outer)

    # -- places

    def declare(self, key: Value | Variable, wanted: str, dtype: DType) -> Held:
        """Room for a tile."""
        axes = key.axes
        in_shared = bool(axes) and key in self.in_shared
        name = self.text.fresh(wanted, everywhere=in_shared)
        held = Held(name, dtype, axes, in_shared)
        self.held[key] = held
        if held.in_shared:
            self.regions.append((name, HELD[dtype], self.layout(axes).lanes))
        else:
            self.text.line(f"{HELD[dtype]} {name}{self.dimensions(self.layout(axes), axes)};")
        return held

    def define(self, value: Value, wanted: str, text: str) -> None:
        """A tile without axes, once and for all."""
        name = self.text.fresh(wanted)
        self.text.line(f"const {HELD[value.dtype]} {name} = {text};")
        self.held[value] = Held(name, value.dtype, (), in_shared=False)

    @staticmethod
    def dimensions(own: Layout, axes: Axes) -> str:
        """Of an array of a thread's slots along some axes."""
        return "".join(f"[{own.of(a).slots}]" for a in axes if own.of(a).slots > 1)

    @staticmethod
    def subscript(axes: Axes, slot: Mapping[Axis, str]) -> str:
        """The element of such an array."""
        return "".join(f"[{slot[a]}]" for a in axes if slot[a] != "0")

    def linear(self, axes: Axes, lane: Mapping[Axis, str], pad: int = 0) -> str:
        """The place of a lane of a tile that is in shared memory row by row. pad: of a row, for the banks' sake."""
        own = self.layout(axes)
        terms: list[str] = []
        for at, axis in enumerate(axes):
            pitch = own.of(axis).pitch
            if at < len(axes) - 1:
                pitch = pitch // own.widths[-1] * (own.widths[-1] + pad)
            if own.of(axis).width > 1:
                terms.append(lane[axis] if pitch == 1 else f"{lane[axis]} * {pitch}")
        return " + ".join(terms) or "0"

    def element(self, held: Held, space: Space) -> str:
        """The lane of a tile that a place in the space sees."""
        if held.in_shared:
            return f"{held.name}[{self.linear(held.axes, space.lane)}]"
        return held.name + self.subscript(held.axes, {a: space.slot[a] for a in held.axes})

    def read(self, key: Value | Variable, space: Space) -> Reg:
        """A held tile as an operand."""
        held = self.held[key]
        if held.axes:
            self.uses.read.setdefault(key, set()).add(space.axes)
        return Reg(self.element(held, space), held.dtype, False)

    @contextmanager
    def writing(self, key: Value | Variable) -> Iterator[None]:
        """Barriers around what fills a tile, if others can see it."""
        held = self.held[key]
        if held.in_shared:
            self.text.barrier()
        yield
        if held.in_shared:
            self.text.barrier()

    def scratch(self, *arrays: tuple[str, str, int]) -> list[str]:
        """Shared memory for the moment, after a barrier: (name wanted, C++ type, elements) each."""
        self.text.barrier()
        names: list[str] = []
        offset = 0
        for wanted, c_type, count in arrays:
            name = self.text.fresh(wanted)
            place = f"shared + {offset}" if offset else "shared"
            self.text.line(f"{c_type}* const {name} = ({c_type}*)({place});")
            names.append(name)
            offset += aligned(count * _BYTES[c_type])
        self.scratch_bytes = max(self.scratch_bytes, offset)
        return names

    def head(self) -> list[str]:
        """The lines at the top of the function that say what is where in shared memory."""
        lines: list[str] = []
        offset = self.scratch_bytes
        for name, c_type, count in self.regions:
            lines.append(f"  {c_type}* const {name} = ({c_type}*)(shared + {offset});")
            offset += aligned(count * _BYTES[c_type])
        if offset:
            lines.insert(0, f"  extern __shared__ __align__({_ALIGNMENT}) unsigned char shared[];")
        return lines

    @property
    def shared_bytes(self) -> int:
        """Of a block."""
        return self.scratch_bytes + sum(aligned(count * _BYTES[c_type]) for _, c_type, count in self.regions)


_BYTES = {"double": 8, "float": 4, "int64_t": 8, "int32_t": 4, "int16_t": 2, "int8_t": 1, "uint8_t": 1, "bool": 1}


def aligned(count: int) -> int:
    """Bytes as they are handed out."""
    return math.ceil(count / _ALIGNMENT) * _ALIGNMENT


def position(along: Along, slot: str) -> str:
    """The lane that is in a slot of this thread."""
    if along.threads == 1:
        return slot
    return along.thread if along.slots == 1 else f"{along.thread} + {along.threads} * {slot}"
