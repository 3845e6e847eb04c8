"""Which values a GPU computes in which phase: the CPU's nests, but split and joined by what keeps a GPU busy.

A phase needs hundreds of programs, and one more phase costs a few microseconds. So a reduction with few results is
done in chunks, each by a program of its own; a second phase combines the partial results, always in the same order.
Reductions that depend on one another (a maximum and the sum of exponentials, a mean and the squares) are split
together: the second works on its own chunk's first, and the combining phase brings the chunks to a common one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from akg_dynamo.agents.designer.cuda_bands import bands
from akg_dynamo.agents.designer.cuda_flat import flatten, scattered
from akg_dynamo.agents.designer.device import Device
from akg_dynamo.agents.designer.domain import (
    Access,
    Axis,
    Index,
    Indices,
    RedRef,
    Sink,
    Tile,
    TooMuch,
    leaves,
    linear,
    trace_sink,
)
from akg_dynamo.agents.designer.nests import (
    Member,
    Nest,
    Pass,
    best_vector,
    choose_across,
    coefficients,
    collapse,
    group_accesses,
    nest_accesses,
    order,
    shared_inner,
    substitute,
)
from akg_dynamo.agents.designer.prims import Prim, Storage, contiguous_strides, mem, reshape
from akg_dynamo.agents.designer.prims import reduce as reduce_prim
from akg_dynamo.agents.designer.recurrence import Recurrence, Reduced, count, recurrence, replaced
from akg_dynamo.agents.designer.schedule import Scheduler
from akg_dynamo.agents.designer.sizes import Size, SizeFacts, product
from akg_dynamo.agents.sketch.ast import DType

CHUNKS = "chunks"  # the name of storage that holds one partial result per chunk: (chunks, results)
COLUMNS = 128  # how many neighbouring columns a program of a column reduction takes
MIN_CHUNK_BYTES = 1 << 15
CHUNK_BYTES = 1 << 18
SMALL = 1 << 16  # elements: reductions up to this share a phase that they would not fill
WHOLE = 1 << 15  # elements of a tensor that a program may hold at once
LAST = (1 << 63) - 1  # a position after every other


@dataclass
class _Split:
    """A reduction done in chunks: what computes the parts, and what combines them."""

    sink: Sink  # as it was before
    stage: Prim  # the parts
    storage: Storage
    chunks: int


class CudaScheduler(Scheduler):
    """Schedules the outputs of one subgraph for a GPU. bias: how much dearer another phase counts than it is."""

    def __init__(self, facts: SizeFacts, device: Device, bias: float = 1.0) -> None:
        super().__init__(facts)
        self.device, self._bias = device, bias

    def _harmonise(self, sinks: list[Sink]) -> None:
        """Besides: what is reduced over the rows of other reductions is computed along with each row."""
        super()._harmonise(sinks)
        of = {s.prim: s for s in sinks if s.is_reduction}
        for sink in sinks:
            if not sink.is_reduction or not sink.reds or sink.operand in self._forced:
                continue
            rows = {of[r.prim].prim.shape for r in sink.reds}
            gathers = any(i.tile is not None for a in sink.loads for i in a.indices)
            if len(rows) == 1 and product(*rows) == product(sink.domain) != 1 and (gathers or len(sink.reds) > 1):
                raise TooMuch(sink.operand)

    # ----------------------------------------------------------------------------------------------------------------
    # What is split

    def _split_reductions(self, sinks: list[Sink]) -> list[Sink]:
        result: list[Sink] = []
        splits: dict[Prim, _Split] = {}
        decided: dict[Prim, tuple[Sink, int | None]] = {}
        large = [s for s in sinks if not s.is_reduction and s.reds]
        of = {s.prim: s for s in sinks if s.is_reduction}
        for sink in sinks:
            chunks = None
            rows = self._rows(sink, of)
            if rows and all(decided[r.prim][1] is None for r in sink.reds if r.prim in decided):
                result.append(sink)
                sink = self._split_by_rows(sink, rows)
            if sink.is_reduction and sink.reduced_axes():
                before = [decided[r.prim] for r in sink.reds if r.prim in decided]
                same = [n for s, n in before if s.domain == sink.domain and s.dims == sink.dims]
                again = any(self._elements(s) * 2 > self._elements(sink) for s in large)
                chunks = same[0] if same else self._chunks_of(sink, again)
                decided[sink.prim] = (sink, chunks)
            if chunks is None:
                result.append(sink)
            elif sink.op.startswith("arg"):
                result += self._split_arg(sink, chunks)
            else:
                result += self._split(sink, chunks, splits)
        return result

    def _elements(self, sink: Sink) -> int:
        return self.facts.value(product(sink.domain))

    def _chunks_of(self, sink: Sink, again: bool) -> int | None:
        """How many chunks to reduce in, where that is faster than one phase.

        again: the values are wanted again afterwards. In the same phase that is free if a row is held whole, and cheap
        if it is still in the cache; in a phase of its own it is another read.
        """
        value, device = self.facts.value, self.device
        kept = value(product(a.extent for a in sink.kept_axes()))
        reduced = value(product(a.extent for a in sink.reduced_axes()))
        item = max([a.storage.dtype.size_bytes for a in sink.loads], default=4)
        moved = kept * reduced * item
        columns, inner = self._alone(sink)
        programs = max(1, kept // min(COLUMNS, columns) if columns else kept)
        together, apart = float(moved), float(moved)
        if again:
            together += (1 + self._missed(moved, programs, reduced * min(max(1, columns), 32))) * moved
            apart += (1 if moved <= device.l2_bytes else 2) * moved
        apart_s = apart / device.bytes_s + (2 if again else 1) * device.phase_s
        rate = device.again_bytes_s if again and reduced > WHOLE and programs <= device.slots else None
        if device.alone_s(together, programs, rate) <= 1.02 * self._bias * apart_s:
            return None
        each = CHUNK_BYTES // 2 if again else CHUNK_BYTES
        whole = max(2 * device.processors, min(moved // each, 16 * device.processors))
        wanted = -(-whole // programs)
        most = min(moved // programs // MIN_CHUNK_BYTES, reduced // 16)
        if min(wanted, most) < 2:
            wanted, most = 2 * int(again), 2 * int(again)  # apart for what comes after: the parts need not be many
        return _best_chunks(inner, wanted, most, not columns)

    def _alone(self, sink: Sink) -> tuple[int, list[int]]:
        """How it would look in a nest of its own: how many columns (0: it reduces rows), and its inner loops."""
        nest = self._start(sink)
        self._finish(nest)
        columns = self.facts.value(nest.vector.extent) if nest.vector is not None else 0
        return columns, [self.facts.value(a.extent) for a in nest.passes[0].inner]

    def _pays(self, nest: Nest, sink: Sink, mapping: dict[Axis, Axis]) -> bool:
        if sink.is_reduction or not any(m.sink.is_reduction for m in nest.members):
            return True
        value, device = self.facts.value, self.device
        work = self._elements(sink)
        programs = value(product(a.extent for a in nest.outer))
        read = work * sum(a.storage.dtype.size_bytes for a in sink.loads if len(coefficients(a)) > len(mapping))
        written = work * sink.prim.dtype.size_bytes
        vector = best_vector(sink.loads, [a for axes in sink.axes for a in axes], self.facts)
        columns = 1
        if vector in mapping:
            assert vector is not None
            columns = min(COLUMNS, max(1, value(vector.extent)))
        programs = max(1, programs // columns)
        missed = self._missed(read, programs, work // programs // columns * min(columns, 32))
        together = device.alone_s(missed * read + written, programs)
        apart = (written + (read if read > device.l2_bytes else 0)) / device.bytes_s + device.phase_s
        return together <= 1.02 * self._bias * apart

    def _missed(self, moved: int, programs: int, held: int) -> float:
        """The share of what a program has read once that it has to fetch again: nothing if it holds it, `held` long."""
        if held <= WHOLE or moved <= self.device.l2_bytes:
            return 0.0
        running = min(programs, self.device.slots) * moved / programs
        return max(0.0, 1 - self.device.l2_bytes / running)

    def _shared_axes(self, nest: Nest, sink: Sink) -> dict[Axis, Axis] | None:
        """Besides what reads the same memory: combining reductions, and small ones, of one shape are one phase."""
        found = super()._shared_axes(nest, sink)
        first = nest.members[0].sink
        if found is not None or not sink.is_reduction or not first.is_reduction:
            return found
        if (sink.chunk is None) is not (first.chunk is None) or sink.chunk is not None:
            return None
        if not (_combines(sink) and _combines(first)) and self._elements(sink) > SMALL:
            return None
        shapes = [[[a.extent for a in axes] for axes in (s.kept_axes(), s.reduced_axes())] for s in (sink, first)]
        if shapes[0] != shapes[1]:
            return None
        return {a: nest.members[0].outer[b] for a, b in zip(sink.kept_axes(), first.kept_axes(), strict=True)}

    def _split(self, sink: Sink, chunks: int, splits: dict[Prim, _Split]) -> list[Sink]:
        known = self._recurrence(sink, chunks, splits)
        storage = self._new_chunks(chunks, sink, sink.prim.dtype)
        parts = reshape(mem(storage), (chunks, *sink.prim.shape))
        stage = reduce_prim(sink.op, parts, (0,))
        combine = self._combining(sink.prim, sink.op, parts, sink)
        before = Sink(sink.prim, sink.operand, None, sink.op, sink.dims)
        before.axes, before.tile = sink.axes, sink.tile
        chunk = Axis(chunks)
        if known is not None:
            about, base = known
            self._combine_apart(combine, about, base)
            self._reduce_apart(sink, about, base, chunk)
        sink.prim, sink.target, sink.chunk = stage, storage, chunk
        splits[combine.prim] = _Split(before, stage, storage, chunks)
        return [sink, combine]

    def _new_chunks(self, chunks: int, sink: Sink, dtype: DType) -> Storage:
        whole = product(sink.prim.shape)
        shape: tuple[Size, ...] = (chunks,) if whole == 1 else (chunks, whole)
        storage = Storage("tmp", len(self.scratch), dtype, shape, contiguous_strides(shape), CHUNKS)
        self.scratch.append(storage)
        return storage

    def _combining(self, prim: Prim, op: str, parts: Prim, sink: Sink) -> Sink:
        """The sink that reduces partial results over the chunks."""
        combine = Sink(prim, parts, None, op, (0,))
        combine.factors = [[parts.shape[0]], *[list(sink.factors[d]) for d in sink.kept_dims]]
        combine.factors = [[s for s in f if s != 1] for f in combine.factors]
        trace_sink(combine, self.tiles, self.facts, self._forced.get)
        return combine

    def _place_of(self, sink: Sink) -> Indices:
        at = super()._place_of(sink)
        if sink.target is None or sink.target.name != CHUNKS or len(sink.target.shape) == len(at):
            return at
        sizes = [sink.domain[d] for d in sink.kept_dims]
        return (at[0], linear(at[1:], sizes, self.tiles)) if len(sink.target.shape) == 2 else at[:1]

    # ----------------------------------------------------------------------------------------------------------------
    # Reductions that are split together

    def _recurrence(self, sink: Sink, chunks: int, splits: dict[Prim, _Split]) -> tuple[Recurrence, _Split] | None:
        """How the sink follows from a reduction that was split into the same chunks."""
        assert sink.tile is not None
        if len(sink.reds) != 1:
            return None
        base = splits.get(sink.reds[0].prim)
        if base is None or base.chunks != chunks or base.sink.dims != sink.dims or base.sink.domain != sink.domain:
            return None
        if [[a.extent for a in f] for f in base.sink.axes] != [[a.extent for a in f] for f in sink.axes]:
            return None
        if sink.reds[0].indices != sink.indices(sink.kept_dims):
            return None
        renamed: dict[Axis, Axis | None] = {
            a: b
            for mine, theirs in zip(base.sink.axes, sink.axes, strict=True)
            for a, b in zip(mine, theirs, strict=True)
        }
        assert base.sink.tile is not None
        same = substitute(base.sink.tile, renamed, self.tiles)
        terms = product(a.extent for a in sink.reduced_axes())
        found = recurrence(sink.op, sink.tile, Reduced(base.sink.op, same, base.sink.prim, terms))
        return None if found is None else (found, base)

    def _reduce_apart(self, sink: Sink, about: Recurrence, base: _Split, chunk: Axis) -> None:
        """Let a chunk's reduction work on the same chunk's result of what it depends on."""
        tiles = self.tiles
        local = tiles.make("red", base.stage.dtype, (), RedRef(base.stage, about.ref.indices), _axes(about.ref.indices))
        assert sink.tile is not None
        term = sink.tile.args[0].args[0]
        if about.kind == "deviation":
            terms = count(base.stage, Index(((chunk, 1),)), tiles)
            difference = tiles.op("sub", term, tiles.op("div", local, terms))
            sink.tile = tiles.op("mul", difference, difference)
        else:
            empty = tiles.op("eq", local, tiles.const(-math.inf, local.dtype))
            sink.tile = tiles.op(
                "exp", tiles.op("sub", term, tiles.op("where", empty, tiles.const(0.0, local.dtype), local))
            )
        sink.reds, sink.loads = leaves(sink.tile)

    def _combine_apart(self, combine: Sink, about: Recurrence, base: _Split) -> None:
        """Bring the chunks' results to a common maximum, or mean, where they are added up.

        sum(exp(t - m))  =  sum over chunks of s_c * exp(m_c - m)
        sum((t - m)**2)  =  sum over chunks of s_c + n_c * (m_c - m)**2
        """
        tiles = self.tiles
        at = combine.indices(range(len(combine.domain)))
        part = combine.tile
        assert part is not None
        theirs = self._part(base, at)
        whole = tiles.make("red", base.sink.prim.dtype, (), RedRef(base.sink.prim, at[1:]), _axes(at[1:]))
        common = replaced(about.about, tiles, lambda t: whole if t.kind == "red" else None)
        if about.kind == "deviation":
            terms = count(base.stage, at[0], tiles)
            some = tiles.op("maximum", terms, tiles.const(1.0, terms.dtype))
            off = tiles.op("sub", tiles.op("div", theirs, some), common)
            combine.tile = tiles.op("add", part, tiles.op("mul", terms, tiles.op("mul", off, off)))
        else:
            # Where the whole maximum is infinite or NaN, what is left of a chunk is what is left of its maximum.
            finite = tiles.op("mul", part, tiles.op("exp", tiles.op("sub", theirs, whole)))
            odd = tiles.op("exp", tiles.op("sub", theirs, common))
            infinite = tiles.const(math.inf, whole.dtype)
            combine.tile = tiles.op("where", tiles.op("lt", tiles.op("abs", whole), infinite), finite, odd)
        combine.reds, combine.loads = leaves(combine.tile)

    def _part(self, base: _Split, at: Indices) -> Tile:
        shape = (base.chunks, *base.sink.prim.shape)
        whole = at if len(base.storage.shape) > 1 else at[:1]
        if len(base.storage.shape) == 2:
            whole = (at[0], linear(at[1:], shape[1:], self.tiles))
        return self.tiles.make("load", base.storage.dtype, (), Access(base.storage, whole), _axes(whole))

    def _split_arg(self, sink: Sink, chunks: int) -> list[Sink]:
        """The extremes of the chunks with their positions; then the first position that has the best of them."""
        extreme = sink.op[3:]
        values = self._new_chunks(chunks, sink, sink.operand.dtype)
        places = self._new_chunks(chunks, sink, DType.I64)
        shape = (chunks, *sink.prim.shape)
        best_parts, place_parts = reshape(mem(values), shape), reshape(mem(places), shape)
        best = reduce_prim(extreme, best_parts, (0,))
        combine_best = self._combining(best, extreme, best_parts, sink)
        combine = self._combining(sink.prim, "min", place_parts, sink)
        part = Sink(reduce_prim(extreme, best_parts, (0,)), sink.operand, values, extreme, sink.dims, Axis(chunks))
        part.factors = [list(f) for f in sink.factors]
        trace_sink(part, self.tiles, self.facts, self._forced.get)
        tiles = self.tiles
        at = combine.indices(range(len(combine.domain)))
        theirs = self._part(_Split(sink, part.prim, values, chunks), at)
        whole = tiles.make("red", best.dtype, (), RedRef(best, at[1:]), _axes(at[1:]))
        same = tiles.op("eq", theirs, whole)
        if best.dtype.is_float:
            same = tiles.op("or", same, tiles.op("and", tiles.op("isnan", theirs), tiles.op("isnan", whole)))
        assert combine.tile is not None
        combine.tile = tiles.op("where", same, combine.tile, tiles.const(LAST, DType.I64))
        combine.reds, combine.loads = leaves(combine.tile)
        sink.prim, sink.target, sink.chunk = reduce_prim("min", place_parts, (0,)), places, Axis(chunks)
        return [part, sink, combine_best, combine]

    # ----------------------------------------------------------------------------------------------------------------
    # Loops

    def _finish(self, nest: Nest) -> None:
        """As the CPU's, but all passes over the same elements share their inner axes: they may hold them at once."""
        for level in sorted({m.level for m in nest.members}):
            groups: list[Pass] = []
            for member in (m for m in nest.members if m.level == level):
                _place(nest, groups, member)
            nest.passes += groups
        collapse(nest)
        accesses = list(nest_accesses(nest))
        stores = [Access(m.sink.target, m.at) for m in nest.members if m.sink.target is not None]
        order(nest.outer, [*stores, *accesses], self.facts)
        for band in bands(nest):
            theirs = [a for p in band for a in group_accesses(p)]
            inner = band[0].inner
            order(inner, theirs, self.facts)
            _move_last(inner, best_vector(theirs, inner, self.facts))
        inner = [a for band in bands(nest) for a in band[0].inner]
        best = best_vector([*accesses, *stores], [*nest.outer, *inner], self.facts)
        if best is None:
            return
        beside = choose_across(best, nest.outer, accesses, self.facts)
        if best in nest.outer:
            nest.vector = best
        if beside is not None and (best in inner or not inner):
            nest.across = beside
            _move_last(nest.outer, beside)
        if best in nest.outer:
            _move_last(nest.outer, best)
        if not inner and nest.across is None and scattered(nest):
            flatten(nest)


def chunked_axis(extents: Sequence[int], count: int, rows: bool) -> int:
    """Which of the inner loops is cut into so many chunks: the outermost that is long enough.

    rows: the last one runs along the lanes, and is not cut into short pieces.
    """
    grains = [_grains(e, rows and k == len(extents) - 1) for k, e in enumerate(extents)]
    return next((k for k, g in enumerate(grains) if g >= count), grains.index(max(grains)))


def _grains(extent: int, row: bool) -> int:
    return -(-extent // 1024) if row else extent


def _best_chunks(extents: Sequence[int], wanted: int, most: int, rows: bool) -> int | None:
    """A number of chunks near the wanted one, all of nearly one length, which fills the tile that holds it."""
    target = min(wanted, most)
    if target < 2:
        return None
    k = chunked_axis(extents, target, rows)
    row = rows and k == len(extents) - 1
    grains = _grains(extents[k], row)
    others = math.prod(extents[:k]) * math.prod(extents[k + 1 :])

    def cost(count: int) -> float:
        length = -(-extents[k] // count)
        uneven = -(-grains // count) * count / grains if extents[k] % count else 1.0
        idle = power_of_two(length) / length if length * others <= WHOLE else 1.0
        exact = 0.95 if extents[k] % count == 0 else 1.0
        return exact * (1 + 0.5 * (uneven - 1)) * (1 + 0.1 * (idle - 1)) * (1 + 0.1 * abs(math.log2(count / target)))

    counts = range(max(2, 3 * target // 4), min(most, 3 * target // 2, grains) + 1)
    return min(counts, key=cost, default=None)


def _place(nest: Nest, groups: list[Pass], member: Member) -> None:
    for group in [*groups, *nest.passes]:
        pairs = shared_inner(group, member)
        if pairs is None:
            continue
        member.rename(pairs, nest.tiles)
        member.inner = group.inner
        if any(group is g for g in groups):
            group.members.append(member)
        else:
            groups.append(Pass(group.inner, [member]))
        return
    groups.append(Pass(member.inner, [member]))


def _move_last(axes: list[Axis], axis: Axis | None) -> None:
    if axis is not None and axis in axes:
        axes.remove(axis)
        axes.append(axis)


def _combines(sink: Sink) -> bool:
    return sink.is_reduction and sink.chunk is None and any(a.storage.name == CHUNKS for a in sink.loads)


def power_of_two(n: int) -> int:
    """The least power of two that is not below n."""
    return 1 << max(0, n - 1).bit_length()


def _axes(indices: Sequence[Index]) -> frozenset[Axis]:
    return frozenset[Axis]().union(*(i.axes for i in indices))
