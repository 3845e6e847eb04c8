"""Tensor accesses in Triton: pointers, and the conditions under which their lanes may be touched."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from akg_dynamo.agents.lowering.index import Ranges, is_const, strides_of
from akg_dynamo.agents.lowering.ir import Access, Axis, IndexAt, IndexGather, IndexSpan, Value, union_axes
from akg_dynamo.agents.lowering.triton_ints import AND, ATOM, SUM, Int, combine, int_text
from akg_dynamo.agents.lowering.triton_ops import Tile, literal, of_int, operation, spread
from akg_dynamo.agents.sketch import ast as sk
from akg_dynamo.agents.sketch.ast import DType
from akg_dynamo.agents.sketch.intexpr import simplify


@dataclass(frozen=True)
class Lanes:
    """An axis in scope: the index of each lane, how many lanes the tile has, which are live (None: all of them)."""

    index: Int
    width: int
    mask: Tile | None
    never_empty: bool


@dataclass(frozen=True)
class Place:
    """Where an access goes: a pointer with dimensions `axes`, and the conditions under which it may be touched.

    bounded: some of them are bounds of the tensor, which live lanes can miss.
    """

    pointer: str
    axes: tuple[Axis, ...]
    conditions: tuple[Tile, ...]
    bounded: bool

    @property
    def mask(self) -> str:
        """All conditions, as the `mask` of a load or store; "" if there are none."""
        return conjunction(self.conditions, self.axes)


def conjunction(conditions: tuple[Tile, ...], axes: tuple[Axis, ...]) -> str:
    """All of the conditions, without repeats."""
    distinct = list({t.text: t for t in (spread(c, axes) for c in conditions)}.values())
    return distinct[0].text if len(distinct) == 1 else " & ".join(t.at(AND) for t in distinct)


@dataclass
class Places:
    """Writes accesses. lanes: the axes in scope. tile, scalar: a value, or an integer expression, as an operand."""

    ints: Mapping[str, Int]
    ranges: Ranges
    tile: Callable[[Value], Tile]
    scalar: Callable[[sk.IntExpr], Int]
    lanes: dict[Axis, Lanes]

    def place(self, access: Access, extra: tuple[Axis, ...] = ()) -> Place:
        """The pointer of an access, scalar terms first. extra: axes that it must have beside its own."""
        strides = strides_of(access.tensor)
        tiles = {d: self.tile(i.tile) for d, i in enumerate(access.indices) if isinstance(i, IndexGather)}
        spans = [(d, i) for d, i in enumerate(access.indices) if isinstance(i, IndexSpan)]
        axes = union_axes(
            *(t.axes for t in tiles.values()), tuple(i.axis for d, i in spans if not is_const(strides[d], 0))
        )
        scalars: list[Int] = []
        moving: list[Int] = []
        bounds: list[Tile] = []
        for dim, index in enumerate(access.indices):
            stride, size = int_text(strides[dim], self.ints), access.tensor.shape[dim]
            if isinstance(index, IndexGather):
                bounds += self.bounds(tiles[dim], size)
                moving.append(self.gathered(spread(tiles[dim], axes), size, stride))
            elif isinstance(index, IndexAt):
                at = self.scalar(index.expr)
                bounds += self.bounds(of_int(at), size, index.expr, index.expr)
                scalars.append(combine("*", at, stride))
            else:
                lanes, shift = self.lanes[index.axis].index, self.scalar(index.shift)
                low, last = _shifted(index.axis.start, index.shift), _shifted(index.axis.stop, index.shift, -1)
                bounds += self.bounds(of_int(combine("+", lanes, shift), (index.axis,)), size, low, last)
                scalars.append(combine("*", shift, stride))
                if index.axis in axes:
                    moving.append(combine("*", replace(lanes, text=_spread_name(lanes, index.axis, axes)), stride))
        known = [(a, self.lanes[a]) for a in union_axes(axes, tuple(i.axis for _, i in spans))]
        live = [own.mask for a, own in known if own.mask is not None and (a in axes or not own.never_empty)]
        conditions = (*bounds, *live)
        pointer = "".join([f"{access.tensor.name}_ptr", *(_term(t) for t in [*scalars, *moving])])
        wanted = union_axes(axes, extra, *(c.axes for c in conditions))
        if wanted != axes:
            sizes = ", ".join(str(self.lanes[a].width) for a in wanted)
            pointer = spread(Tile(pointer, SUM, DType.I64, DType.I64, axes), wanted).text
            pointer = f"tl.broadcast_to({pointer}, [{sizes}])"
        return Place(pointer, wanted, conditions, bool(bounds))

    def gathered(self, index: Tile, size: sk.IntExpr, stride: Int) -> Int:
        """The offset of indices that a tile holds, which lie inside the dimension where they are used."""
        bound = int_text(size, self.ints).high
        inside = Int(index.text, index.level, 0, None if bound is None else bound - 1, index.held is DType.I64)
        return combine("*", inside, stride)

    def bounds(
        self, index: Tile, size: sk.IntExpr, low: sk.IntExpr | None = None, last: sk.IntExpr | None = None
    ) -> list[Tile]:
        """0 <= index < size, as far as it is not known. low, last: what bounds the index, in the sketch's terms."""
        if index.dtype is DType.I32:
            index = replace(index, dtype=DType.I64, low=-(2**31), high=2**31 - 1)
        top = int_text(size, self.ints)
        above = index.low is not None and index.low >= 0
        below = index.high is not None and top.low is not None and index.high < top.low
        if low is not None and last is not None:
            above = above or self.ranges.inside(low, sk.IntConst(-1), size)
            below = below or self.ranges.inside(sk.IntConst(0), last, size)
        found = []
        if not above:
            found.append(operation("ge", [index, literal(0, DType.I64)], DType.BOOL))
        if not below:
            found.append(operation("lt", [index, of_int(top)], DType.BOOL))
        return found


def _spread_name(lanes: Int, axis: Axis, axes: tuple[Axis, ...]) -> str:
    return spread(Tile(lanes.text, ATOM, DType.I64, DType.I64, (axis,)), axes).text


def _term(offset: Int) -> str:
    """An offset added to a pointer."""
    if offset.literal:
        value = int(offset.text)
        return "" if value == 0 else f" + {value}" if value > 0 else f" - {-value}"
    return f" + {offset.at(SUM + 1) if offset.level == SUM else offset.text}"


def _shifted(bound: sk.IntExpr, shift: sk.IntExpr, by: int = 0) -> sk.IntExpr:
    """bound + shift + by."""
    return simplify(sk.IntBin("+", sk.IntBin("+", bound, shift), sk.IntConst(by)))
