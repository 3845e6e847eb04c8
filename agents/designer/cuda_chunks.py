"""What every nest of a GPU's sketch is written with, and the chunks that a long reduction is done in.

A chunked axis is cut into grains, which are dealt out evenly: the chunks of an axis that does not divide differ by one
grain. How many terms a chunk has is what a mean of chunks is weighted with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from akg_dynamo.agents.designer.cuda_tiles import BandPlan, Chunked, NestPlan
from akg_dynamo.agents.designer.declare import Declarations, minus, plus, times
from akg_dynamo.agents.designer.domain import Axis, Tile
from akg_dynamo.agents.designer.nests import Nest, Pass
from akg_dynamo.agents.designer.prims import Prim
from akg_dynamo.agents.designer.sizes import product
from akg_dynamo.agents.designer.writer import NestWriter
from akg_dynamo.agents.sketch.ast import (
    Assign,
    Cast,
    IndexValue,
    IntBin,
    IntConst,
    IntExpr,
    IntVar,
    Literal,
    Name,
    Op,
    Stmt,
    TileExpr,
)

ONE = IntConst(1)


@dataclass(frozen=True)
class Terms:
    """How many terms each chunk of a partial reduction has: `others` for every element of the chunked axis."""

    chunked: Chunked
    extent: IntExpr
    grain: IntExpr
    others: IntExpr


class ChunkWriter(NestWriter):
    """Writes one nest as planned: its tile sizes by name, its chunks by number."""

    def __init__(self, whole: Declarations, nest: Nest, plan: NestPlan, counts: dict[Prim, Terms]) -> None:
        super().__init__(whole, nest)
        self._plan, self._counts = plan, counts
        self._tiles: dict[tuple[str, int], str] = {}
        self._bounds: dict[Axis, tuple[IntExpr, IntExpr]] = {}
        self._trips: dict[Axis, IntExpr] = {}  # of the loop over a chunk, where it is known better than from its bounds

    def _tile(self, stem: str, size: int, *, tunable: bool = False) -> str:
        """A tile size by name."""
        name = self._tiles.get((stem, size))
        if name is None:
            space = (size // 2, size, size * 2) if tunable and size > 1 else ()
            name = self._tiles[stem, size] = self._whole.fresh(stem)
            self._whole.constexpr(name, size, space)
        return name

    def _add(self, statement: Stmt) -> None:
        self._scopes[-1].body.append(statement)

    def _let(self, stem: str, value: TileExpr) -> Name:
        name = self._whole.fresh(stem)
        self._add(Assign(name, value))
        return Name(name)

    def _chunk(self, band: Sequence[Pass], plan: BandPlan) -> None:
        """The range of a chunked axis: its grains are dealt out evenly."""
        chunked = plan.chunked
        if chunked is None:
            return
        extent = self._whole.size(chunked.axis.extent)
        tiled = not plan.whole and chunked.grain > 1
        grain: IntExpr = IntVar(self._tile("BL", chunked.grain)) if tiled else IntConst(chunked.grain)
        number = IntVar(self._vars[chunked.chunk])
        self._bounds[chunked.axis] = self._range(chunked, extent, grain, number)
        if chunked.length is not None:
            length, tile = self._whole.size(chunked.length), plan.tiles[chunked.axis]
            if tile == 1 or chunked.length % tile == 0:
                step = IntVar(self._tile("BL", tile)) if tile > 1 else ONE
                self._trips[chunked.axis] = length if tile == 1 else IntBin("//", length, step)
        elif tiled:
            first, last = (self._share(chunked, extent, grain, n) for n in (number, plus(number, ONE)))
            self._trips[chunked.axis] = minus(last, first)
        others = self._whole.size(product(a.extent for a in band[0].inner if a is not chunked.axis))
        for group in band:
            for member in group.members:
                if member.chunk is not None:
                    self._counts[member.sink.prim] = Terms(chunked, extent, grain, others)

    def _range(self, chunked: Chunked, extent: IntExpr, grain: IntExpr, number: IntExpr) -> tuple[IntExpr, IntExpr]:
        if chunked.length is not None:
            length = self._whole.size(chunked.length)
            first = times(number, length)
            return first, plus(first, length)
        lo, hi = (self._border(chunked, extent, grain, n) for n in (number, plus(number, ONE)))
        return lo, IntBin("min", hi, extent)

    def _border(self, chunked: Chunked, extent: IntExpr, grain: IntExpr, number: IntExpr) -> IntExpr:
        """Where a chunk begins."""
        return times(self._share(chunked, extent, grain, number), grain)

    def _share(self, chunked: Chunked, extent: IntExpr, grain: IntExpr, number: IntExpr) -> IntExpr:
        """How many grains the chunks before one have."""
        grains = extent
        if chunked.grain > 1:
            grains = IntBin("//", plus(extent, minus(grain, ONE)), grain)
        return IntBin("//", times(number, grains), self._whole.size(chunked.count))

    def _expr(self, tile: Tile, depth: int) -> TileExpr:
        return self._terms(tile) if tile.kind == "count" and self._named(tile) is None else super()._expr(tile, depth)

    def _terms(self, tile: Tile) -> TileExpr:
        """How many terms a chunk has, as a number."""
        terms = self._counts[tile.attr.prim]
        (index,) = tile.attr.indices
        chunked = terms.chunked
        number = self._number(index)
        if chunked.length is not None:
            length = times(self._whole.size(chunked.length), terms.others)
            return Cast(IndexValue(length), tile.dtype)
        if isinstance(number, IndexValue):
            lo, hi = self._range(chunked, terms.extent, terms.grain, number.expr)
            return Cast(IndexValue(times(minus(hi, lo), terms.others)), tile.dtype)
        return Cast(self._lane_terms(terms, number), tile.dtype)

    def _lane_terms(self, terms: Terms, number: TileExpr) -> TileExpr:
        """The same for a tile of chunk numbers."""
        chunked = terms.chunked
        grains = terms.extent
        if chunked.grain > 1:
            grains = IntBin("//", plus(terms.extent, minus(terms.grain, ONE)), terms.grain)
        count = IndexValue(self._whole.size(chunked.count))

        def border(n: TileExpr) -> TileExpr:
            share = Op("floordiv", (Op("mul", (n, IndexValue(grains))), count))
            return Op("mul", (share, IndexValue(terms.grain))) if chunked.grain > 1 else share

        end = Op("minimum", (border(Op("add", (number, Literal(1)))), IndexValue(terms.extent)))
        length = self._let("terms", Op("sub", (end, border(number))))
        return Op("mul", (length, IndexValue(terms.others)))
