"""How large the tiles of a nest are on a GPU: what one program holds, and how many warps share it.

    pointwise        one tile of neighbouring elements; two axes where a broadcast keeps them apart, or a transposition
    rows             the reduced axes along the lanes; a whole row (or several short ones) at once where it fits into
                     registers, so that all passes share one load; in a loop otherwise
    columns          neighbouring results along the lanes, and as many reduced rows beside them as fit

A tile's sizes are powers of two. `Knobs` moves away from the first guess; that is how the tuner asks for others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import prod

from akg_dynamo.agents.designer.cuda_bands import bands, carried, follows_a_mean, reads, sums_exponentials
from akg_dynamo.agents.designer.cuda_flat import scattered
from akg_dynamo.agents.designer.cuda_schedule import COLUMNS, WHOLE, chunked_axis, power_of_two
from akg_dynamo.agents.designer.device import Device
from akg_dynamo.agents.designer.domain import Access, Axis, leaves
from akg_dynamo.agents.designer.nests import Nest, Pass, coefficients, nest_accesses
from akg_dynamo.agents.designer.prims import Storage
from akg_dynamo.agents.designer.sizes import SizeFacts, product

TILE_BYTES = 4096  # of one tensor, that a pointwise program reads: 32 per thread of four warps, two vector loads
LOOP = 1 << 12  # elements of a tensor that one trip of a reduction's loop reads; twice that from long rows
LONG = 1 << 15
PER_THREAD = 16  # elements of a tensor that a thread of a reduction holds
FEW = 1 << 19  # elements of a tensor: a pointwise phase of no more does not fill the processors
SHORT = 1 << 10  # elements of a tensor, 4-byte ones: programs that hold no more have more threads for them
MANY_LOADS = 4  # of a pointwise phase: a thread has fewer elements of each, so that all are asked for at once
APART = 256  # elements that a program takes whose loads no vectors hold: one for each thread
MAX_WARPS = 16
TRIP_WARPS = 4  # of a program that is a loop: it waits in every trip, and others run meanwhile
COUNTED = 1.3  # what it costs a mean in a loop that every lane has terms of its own number: a division for each element
ROW_GRANULE = 16  # chunks of a row that is held at once start at multiples of this: vector loads stay aligned


@dataclass(frozen=True)
class Knobs:
    """Steps away from the first guess: tile sizes and warps as powers of two; whether rows are held whole."""

    tile: int = 0
    warps: int = 0
    whole: bool | None = None


@dataclass(frozen=True)
class Chunked:
    """The inner axis that is cut into chunks: its grains, of `grain` elements each, are dealt out evenly to them."""

    axis: Axis
    chunk: Axis
    grain: int

    @property
    def count(self) -> int:
        """How many chunks."""
        assert isinstance(self.chunk.extent, int)
        return self.chunk.extent

    @property
    def length(self) -> int | None:
        """The length of a chunk, when all chunks have the same."""
        extent = self.axis.extent
        return extent // self.count if isinstance(extent, int) and extent % (self.grain * self.count) == 0 else None

    def longest(self, extent: int) -> int:
        """The length of the longest chunk of an axis of this extent."""
        grains = -(-extent // self.grain)
        return min(extent, -(-grains // self.count) * self.grain)


@dataclass(frozen=True)
class BandPlan:
    """The inner axes of some passes. whole: one tile holds all of them, `tiles` each; otherwise 1 is a scalar loop."""

    whole: bool
    tiles: dict[Axis, int]
    chunked: Chunked | None = None


@dataclass(frozen=True)
class NestPlan:
    """The tile size of every outer axis (1: a scalar loop), the plan of every band, and the warps.

    once: it reads about what the cache holds or a few times that, each element once, and writes little: it should leave
    the cache alone.
    """

    outer: dict[Axis, int]
    bands: dict[int, BandPlan] = field(default_factory=dict)  # by the identity of the passes' list of inner axes
    warps: int = 4
    once: bool = False

    def band(self, group: Pass) -> BandPlan:
        """The plan of a pass's band."""
        return self.bands[id(group.inner)]


def plan(
    nest: Nest, facts: SizeFacts, device: Device, knobs: Knobs, elsewhere: frozenset[Storage] = frozenset()
) -> NestPlan:
    """The first guess for a nest, as far away from it as the knobs say. elsewhere: what other phases read too."""
    found = _Planner(nest, facts, device, knobs).plan()
    kept = any(a.storage in elsewhere for a in nest_accesses(nest) if a.storage.kind == "in")
    return replace(found, once=found.once and not kept)


class _Planner:
    def __init__(self, nest: Nest, facts: SizeFacts, device: Device, knobs: Knobs) -> None:
        self.nest, self.facts, self.device, self.knobs = nest, facts, device, knobs
        self.bands = bands(nest)
        self.item = _item_bytes(list(nest_accesses(nest)), facts)

    def plan(self) -> NestPlan:
        if self.nest.trips is not None:
            return self._trips()
        if not self.bands:
            return self._pointwise()
        found = self._columns() if self.nest.vector is not None else self._rows()
        return replace(found, once=self._streams(found))

    def _streams(self, found: NestPlan) -> bool:
        """Whether to read past what is in the cache: of that, much would have to be written back to make room.

        A small tensor may be there already, and would not stay; where much more passes, that is little.
        """
        again = any(not found.band(b[0]).whole and reads(b) > 1 for b in self.bands)
        if again or not self.device.past_cache:
            return False
        read: dict[Storage, int] = {}
        written = 0
        for access in nest_accesses(self.nest):
            elements = self.facts.value(product(a.extent for a in coefficients(access)))
            size = elements * access.storage.dtype.size_bytes
            if access.storage.kind == "in":
                read[access.storage] = max(read.get(access.storage, 0), size)
            else:
                written += size
        total = sum(read.values())
        return 8 * written <= total and self.device.l2_bytes // 2 <= total <= 7 * self.device.l2_bytes

    def _value(self, axis: Axis) -> int:
        return max(1, self.facts.value(axis.extent))

    def _scaled(self, n: int, least: int = 1) -> int:
        return max(least, n << self.knobs.tile if self.knobs.tile >= 0 else n >> -self.knobs.tile)

    def _warps(self, elements: int, per_thread: int) -> int:
        found = power_of_two(-(-elements // (32 * per_thread)))
        found = found << self.knobs.warps if self.knobs.warps >= 0 else found >> -self.knobs.warps
        return max(1, min(found, 2 * MAX_WARPS if self.knobs.warps > 0 else MAX_WARPS))

    def _outer(self) -> Iterator[Axis]:
        """The outer axes that may be tiled, best first: a chunk's number is always a scalar."""
        chunks = {m.chunk for m in self.nest.members}
        return (a for a in reversed(self.nest.outer) if a not in chunks)

    # ----------------------------------------------------------------------------------------------------------------

    def _pointwise(self) -> NestPlan:
        outer = dict.fromkeys(self.nest.outer, 1)
        total = prod(self._value(a) for a in self.nest.outer)
        if self.nest.across is not None and self.nest.vector is not None:
            side = self._scaled(64, 8)
            while side > 16 and total < self.device.processors * side * side:
                side //= 2
            outer[self.nest.across] = min(side, power_of_two(self._value(self.nest.across)))
            rest = side * side // outer[self.nest.across]
            outer[self.nest.vector] = min(rest, power_of_two(self._value(self.nest.vector)))
            return NestPlan(outer, {}, self._warps(prod(outer.values()), 32 if side >= 64 else 8))
        apart = scattered(self.nest)
        budget = APART if apart else max(32, TILE_BYTES // self.item)
        while budget > 256 and total < 2 * self.device.processors * budget:
            budget //= 2
        left = self._scaled(budget, 32)
        for axis in self._outer():
            if left > 1:
                contiguous = axis is self.nest.vector
                most = min(left, max(32, 1024 // self.item)) if contiguous and self._reuses() else left
                outer[axis] = self._fitting(self._value(axis), most, contiguous)
                left //= outer[axis]
                if apart and outer[axis] >= 32:
                    left = 1
        per_thread = max(2, 32 // self.item)
        if self.nest.outer and self._loads() >= MANY_LOADS:
            per_thread = max(2, per_thread // 2)
        if apart:
            per_thread = 1
        if total <= FEW:  # there are threads enough, and every element more is time
            per_thread = max(1, per_thread // 4)
        return NestPlan(outer, {}, self._warps(prod(outer.values()), per_thread))

    def _loads(self) -> int:
        """How many loads there are of neighbouring elements."""
        loads = {a for m in self.nest.members for a in leaves(m.tile)[1]}
        return sum(1 for a in loads if self.nest.outer[-1] in coefficients(a))

    def _reuses(self) -> bool:
        """Whether what is read for one row is read again for the next: then a tile has several rows."""
        if len(self.nest.outer) < 2:
            return False
        row, vector = self.nest.outer[-2], self.nest.vector
        steps = [coefficients(a) for a in nest_accesses(self.nest)]
        return any(vector in s and row not in s for s in steps)

    def _rows(self) -> NestPlan:
        found = {id(b[0].inner): self._band(b, 1, WHOLE) for b in self.bands}
        inner = max(prod(b.tiles.values()) for b in found.values())
        outer = dict.fromkeys(self.nest.outer, 1)
        rows = prod(self._value(a) for a in self.nest.outer)
        left = min(self._scaled(SHORT) // inner, max(1, rows // (2 * self.device.processors)))
        if self.nest.across is not None:
            left = max(left, min(32, WHOLE // inner))
        for axis in self._outer():
            if left > 1:
                outer[axis] = min(1 << (left.bit_length() - 1), power_of_two(self._value(axis)))
                left //= outer[axis]
        elements = inner * prod(outer.values())
        per_thread = PER_THREAD
        waits = any(sums_exponentials(b) for b in self.bands if not found[id(b[0].inner)].whole)
        if self.item >= 4 and waits:
            per_thread //= max(carried(b) for b in self.bands)
        elif self.item >= 4 and elements <= SHORT:
            per_thread //= 2
        held = all(b.whole for b in found.values())
        if held and rows <= self.device.processors and elements <= 4 * SHORT:
            per_thread //= 2
        return NestPlan(outer, found, self._warps(elements, per_thread))

    def _trips(self) -> NestPlan:
        """For a loop whose trips wait for one another: as many threads as there are, each with few elements."""
        found = {id(b[0].inner): BandPlan(True, self._whole(b[0].inner, None) or {}) for b in self.bands}
        inner = max((prod(b.tiles.values()) for b in found.values()), default=1)
        total = inner * prod(self._value(a) for a in self.nest.outer)
        threads = 1024 * self.device.processors
        each = max(1, min(PER_THREAD, power_of_two(total // threads)))
        outer = dict.fromkeys(self.nest.outer, 1)
        left = max(1, self._scaled(32 * TRIP_WARPS * each) // inner)
        for axis in self._outer():
            if left > 1:
                outer[axis] = min(left, power_of_two(self._value(axis)))
                left //= outer[axis]
        elements = inner * prod(outer.values())
        return NestPlan(outer, found, max(1, min(self._warps(elements, each), elements // 32)))

    def _columns(self) -> NestPlan:
        vector = self.nest.vector
        assert vector is not None
        others = prod(self._value(a) for a in self.nest.outer if a is not vector)
        columns = min(self._scaled(COLUMNS // 2, 16), power_of_two(self._value(vector)))
        line, sector = min(columns, 128 // self.item), min(columns, 32 // self.item)
        while columns > line and any(len(b) > 1 and not self._band(b, columns, WHOLE // 4).whole for b in self.bands):
            columns //= 2
        for least, programs in ((line, 2 * self.device.processors), (sector, self.device.processors // 4)):
            while columns > least and others * -(-self._value(vector) // columns) < programs:
                columns //= 2
        found = {id(b[0].inner): self._band(b, columns, WHOLE // 4) for b in self.bands}
        inner = max(prod(b.tiles.values()) for b in found.values()) * columns
        outer = dict.fromkeys(self.nest.outer, 1)
        outer[vector] = columns
        left = min(self._scaled(2048) // inner, others // (2 * self.device.processors))
        for axis in self._outer():
            if left > 1 and axis is not vector:
                outer[axis] = min(1 << (left.bit_length() - 1), power_of_two(self._value(axis)))
                left //= outer[axis]
        elements = inner * prod(n for a, n in outer.items() if a is not vector)
        return NestPlan(outer, found, self._warps(elements, PER_THREAD))

    def _fitting(self, extent: int, most: int, contiguous: bool, loss: float = 1.02, ragged: float = 1.0) -> int:
        """A tile size for an axis, at most `most`: large, but with few idle lanes in the last tile.

        contiguous: elements are neighbours along it, so its tile is not cut below what one transfer brings.
        loss: what half the size costs, where another axis cannot make up for it. ragged: what masks cost beside that.
        """
        size = min(most, power_of_two(extent))
        least = min(size, 128 // self.item if contiguous else max(1, most // 16))
        best, cost, penalty = size, float("inf"), 1.0
        while size >= least:
            idle = -(-extent // size) * size / extent
            found = idle * penalty * (0.96 if idle == 1 else ragged)
            if found < cost:
                best, cost = size, found
            penalty *= loss if contiguous and size * self.item > 1024 else 1.1
            size //= 2
        return best

    # ----------------------------------------------------------------------------------------------------------------
    # Inner axes

    def _band(self, band: Sequence[Pass], beside: int, limit: int) -> BandPlan:
        """Whole, if it fits beside so many lanes of outer axes, else in a loop over tiles of one or two axes."""
        inner = band[0].inner
        chunked = self._chunked(band)
        if chunked is not None:
            limit = min(limit, WHOLE // 4)  # there are many of them: they need not be long
        whole = self._whole(inner, None if chunked is None else self._with_grain(chunked, inner, True))
        if whole is not None:
            size, length = prod(whole.values()) * beside, self._length(inner, chunked)
            again = reads(band) > 1
            fits = size <= (limit if again else min(limit, WHOLE // 4)) // _kept(band) and len(inner) <= 3
            fits = fits and (size <= WHOLE // 2 or self._loaded(band) <= 1.5)
            tight = again or size <= 2048 or 3 * size <= 4 * length * beside
            if self.knobs.whole is not None and size <= 2 * limit and len(inner) <= 3:
                fits = tight = self.knobs.whole and again
            if fits and tight:
                return BandPlan(True, whole, None if chunked is None else self._with_grain(chunked, inner, True))
        long = self.item <= 2 or (beside == 1 and self._length(inner, chunked) >= LONG)
        loop = (2 * LOOP if long else LOOP) // power_of_two(max(1, carried(band)))
        if sums_exponentials(band):
            loop = LOOP // 2
        if self.nest.vector is not None:
            loop //= 2
        left = max(1, self._scaled(loop, 32) // beside)
        tiles = dict.fromkeys(inner, 1)
        ragged = COUNTED if follows_a_mean(band) else 1.0
        for axis in reversed(inner):
            if left > 1 and sum(n > 1 for n in tiles.values()) < 2:
                length = self._value(axis)
                if chunked is not None and axis is chunked.axis:
                    length = chunked.longest(length)
                row = self.nest.vector is None and axis is inner[-1]
                tiles[axis] = self._fitting(length, left, row, 1.02 if len(inner) > 1 else 1.06, ragged)
                left //= tiles[axis]
        if chunked is not None and chunked.length is None:
            chunked = Chunked(chunked.axis, chunked.chunk, tiles[chunked.axis])
        return BandPlan(False, tiles, chunked)

    def _chunked(self, band: Sequence[Pass]) -> Chunked | None:
        chunk = next((m.chunk for p in band for m in p.members if m.chunk is not None), None)
        if chunk is None:
            return None
        inner = band[0].inner
        k = chunked_axis([self._value(a) for a in inner], self._value(chunk), self.nest.vector is None)
        return Chunked(inner[k], chunk, 1)

    def _loaded(self, band: Sequence[Pass]) -> float:
        """How many registers per element the loads of a band take."""
        inner = set(band[0].inner)
        loads = {
            a.storage: a for p in band for m in p.members for a in leaves(m.tile)[1] if inner & coefficients(a).keys()
        }
        return sum(min(4, storage.dtype.size_bytes) / 4 for storage in loads)

    def _with_grain(self, chunked: Chunked, inner: Sequence[Axis], whole: bool) -> Chunked:
        row = whole and self.nest.vector is None and chunked.axis is inner[-1]
        return Chunked(chunked.axis, chunked.chunk, ROW_GRANULE if row else 1)

    def _whole(self, inner: Sequence[Axis], chunked: Chunked | None) -> dict[Axis, int] | None:
        """The sizes of tiles that surely hold the axes, for every value the symbols may have."""
        found: dict[Axis, int] = {}
        for axis in inner:
            most = self.facts.most(axis.extent)
            if most is None:
                return None
            if chunked is not None and axis is chunked.axis:
                most = chunked.longest(most)
            found[axis] = power_of_two(most)
        return found

    def _length(self, inner: Sequence[Axis], chunked: Chunked | None) -> int:
        total = prod(self._value(a) for a in inner)
        return max(1, total // chunked.count) if chunked is not None else total


def _kept(band: Sequence[Pass]) -> int:
    """How many tiles a program keeps from one pass to the next: the largest expressions that both sides contain."""
    inner = set(band[0].inner)
    most = 1
    for k in range(1, len(band)):
        known = _closure(band[:k])
        kept: set[int] = set()
        seen: set[int] = set()
        stack = [m.tile for p in band[k:] for m in p.members]
        while stack:
            tile = stack.pop()
            if id(tile) in seen:
                continue
            seen.add(id(tile))
            if id(tile) not in known:
                stack.extend(tile.below)
            elif tile.axes & inner and tile.kind != "index":
                kept.add(id(tile))
        most = max(most, len(kept))
    return most


def _closure(passes: Sequence[Pass]) -> set[int]:
    found: set[int] = set()
    stack = [m.tile for p in passes for m in p.members]
    while stack:
        tile = stack.pop()
        if id(tile) not in found:
            found.add(id(tile))
            stack.extend(tile.below)
    return found


def _item_bytes(accesses: Sequence[Access], facts: SizeFacts) -> int:
    """The size of the elements that most of the traffic consists of."""
    weights = [(facts.value(product(a.extent for a in coefficients(x))), x.storage.dtype.size_bytes) for x in accesses]
    heaviest = max((w for w, _ in weights), default=1)
    return max((item for w, item in weights if 2 * w >= heaviest), default=4)
