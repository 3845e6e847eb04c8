"""A loop around the passes of a nest, whose trips follow one another: what it carries stays in registers.

axis k = range(0, n1, BK)
s = alloc([j, k], f32, init=0.0)
for t in range(0, n2):
  ...                                 the passes, which read `s` and compute `v`
  s = v
store(s -> y1[j, k])
"""

from __future__ import annotations

from collections.abc import Sequence

from akg_dynamo.agents.designer.cuda_bands import bands
from akg_dynamo.agents.designer.cuda_chunks import Terms
from akg_dynamo.agents.designer.cuda_recurrences import RecurrenceWriter
from akg_dynamo.agents.designer.cuda_tiles import NestPlan
from akg_dynamo.agents.designer.declare import Declarations
from akg_dynamo.agents.designer.domain import Access, Axis, Tile
from akg_dynamo.agents.designer.nests import Carried, Member, Nest
from akg_dynamo.agents.designer.prims import Prim, Storage
from akg_dynamo.agents.designer.writer import ZERO, Scope
from akg_dynamo.agents.sketch.ast import (
    Alloc,
    Assign,
    AxisDecl,
    Cast,
    DType,
    For,
    Lanes,
    Literal,
    Name,
    Op,
    Store,
    TileExpr,
)


class TripWriter(RecurrenceWriter):
    """Writes such a loop. `_held`: the names of the values that it carries; `_next`: those that replace them."""

    def __init__(self, whole: Declarations, nest: Nest, plan: NestPlan, counts: dict[Prim, Terms]) -> None:
        super().__init__(whole, nest, plan, counts)
        self._held: dict[Storage, Name] = {}
        self._next: dict[Storage, TileExpr] = {}

    def _begin_trips(self) -> None:
        """Opens the loop, if there is one: around it, the axes that are held whole, and what is carried."""
        trips = self._nest.trips
        if trips is None:
            return
        outside = self._scopes[-1]
        for band in bands(self._nest):
            plan = self._plan.band(band[0])
            for axis in band[0].inner:
                self._vars[axis] = self._whole.fresh("k")
                self._steps[axis] = self._tile("BK", plan.tiles[axis])
                self._add(AxisDecl(self._vars[axis], ZERO, self._whole.size(axis.extent), self._steps[axis]))
                outside.axes |= {axis}
        for carried in trips.carried:
            name = self._whole.fresh("s")
            axes = tuple(self._vars[a] for a in self._tiled_axes(carried))
            self._add(Alloc(name, axes, carried.target.dtype, carried.initial))
            self._held[carried.target] = Name(name)
            if carried.source is not None:
                self._held[carried.source] = Name(name)
        self._open(trips.axis, "t")

    def _end_trips(self) -> None:
        """Closes it: the next trip reads what this one has computed."""
        trips = self._nest.trips
        if trips is None:
            return
        for carried in trips.carried:
            self._add(Assign(self._held[carried.target].name, self._next[carried.target]))
        scope = self._scopes.pop()
        self._add(For(self._vars[trips.axis], ZERO, self._whole.size(trips.axis.extent), None, tuple(scope.body)))
        for carried in trips.carried:
            if carried.final is not None:
                held = self._held[carried.target]
                narrow = carried.final.dtype is not carried.target.dtype
                value = Cast(held, carried.final.dtype) if narrow else held
                self._add(Store(value, self._ref(Access(carried.final, carried.member.at))))

    def _tiled_axes(self, carried: Carried) -> list[Axis]:
        return [a for a in (*self._nest.outer, *carried.member.inner) if a in self._steps]

    def _expr(self, tile: Tile, depth: int) -> TileExpr:
        if tile.kind == "load" and tile.attr.storage in self._held:
            return self._held[tile.attr.storage]
        return super()._expr(tile, depth)

    def _store(self, member: Member, value: TileExpr, dtype: DType) -> None:
        target = member.sink.target
        carried = self._carrying(target)
        if carried is None or target is None:
            super()._store(member, value, dtype)
            return
        if isinstance(value, Literal):
            value = Literal(value.value, dtype)
        missing = [a for a in self._tiled_axes(carried) if a not in member.tile.axes]
        self._next[target] = self._let("next", self._over(value, missing))

    def _carrying(self, target: Storage | None) -> Carried | None:
        trips = self._nest.trips
        return next((c for c in trips.carried if c.target is target), None) if trips is not None else None

    def _over(self, value: TileExpr, axes: Sequence[Axis]) -> TileExpr:
        """The value, made to vary over these axes, too."""
        for axis in axes:
            other = Literal(value.value) if isinstance(value, Literal) else value
            value = Op("where", (Op("ge", (Lanes(self._vars[axis]), Literal(0))), value, other))
        return value

    def _reds_known(self, tile: Tile, scope: Scope) -> bool:
        """Inside the loop, where the passes are."""
        inside = self._nest.trips is None or self._scopes.index(scope) > len(self._nest.outer)
        return super()._reds_known(tile, scope) and (inside or not tile.has_red)
