"""Which values are computed, in which loop nest, and in how many passes.

A **sink** is a value with loops of its own: an output, a reduction, or scratch. Sinks share a **nest** when one's
results are wanted exactly at the other's outer axes, so that (softmax) a row's maximum, its sum and its results are
three passes over a row that stays in cache; or when they read the same memory. Everything else goes through scratch
memory to a later nest. A reduction with too few rows to keep a machine busy is done in chunks, whose partial results a
second nest combines: always in the same order, so that results do not depend on the number of threads.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from akg_dynamo.agents.designer.domain import (
    Access,
    Axis,
    Index,
    Indices,
    RedRef,
    Sink,
    Tiles,
    TooMuch,
    leaves,
    linear,
    split_factor,
    trace_sink,
)
from akg_dynamo.agents.designer.nests import (
    COLUMN_TILE,
    MIN_PARALLEL,
    Member,
    Nest,
    best_vector,
    finish,
    same_access,
    substitute,
)
from akg_dynamo.agents.designer.prims import Prim, Shape, Storage, apply, const, contiguous_strides, expand, mem
from akg_dynamo.agents.designer.prims import reduce as reduce_prim
from akg_dynamo.agents.designer.sizes import Size, SizeFacts, exact_div, product
from akg_dynamo.agents.sketch.ast import DType

# Less work than this is not worth a second phase.
MIN_SPLIT_ELEMENTS = 1 << 16
CHUNK_ELEMENTS = 1 << 14
MAX_CHUNKS = 128
_ARG_PHASES = (
    16  # how much more work an arg-extreme needs: its chunks leave two results each, which are looked at twice
)
_NOWHERE = (1 << 63) - 1  # a position after every other


@dataclass
class Schedule:
    """Nests in order, and the scratch tensors between them."""

    nests: list[Nest]
    scratch: list[Storage]


class Scheduler:
    """Schedules the outputs of one subgraph."""

    def __init__(self, facts: SizeFacts) -> None:
        self.facts = facts
        self.tiles = Tiles()
        self.scratch: list[Storage] = []
        self._forced: dict[Prim, Storage] = {}
        self._all: list[Sink] = []

    def schedule(self, outputs: Sequence[tuple[Prim, Storage]]) -> Schedule:
        """Nests that compute every output into its storage."""
        while True:
            self.tiles = Tiles()
            self.scratch = list(self._forced.values())
            self._red_storage: dict[Prim, Storage] = {}
            try:
                sinks = self._sinks(outputs)
                self._harmonise(sinks)
            except TooMuch as much:
                self._forced[much.prim] = self._new_scratch(much.prim.shape, much.prim.dtype)
                continue
            self._all = self._split_reductions(sinks)
            nests = self._form(self._all)
            for nest in nests:
                self._finish(nest)
            return Schedule(nests, self.scratch)

    def _finish(self, nest: Nest) -> None:
        finish(nest, self.facts)

    def _new_scratch(self, shape: Shape, dtype: DType) -> Storage:
        storage = Storage("tmp", len(self.scratch), dtype, shape, contiguous_strides(shape))
        self.scratch.append(storage)
        return storage

    # ----------------------------------------------------------------------------------------------------------------
    # Sinks

    def _sinks(self, outputs: Sequence[tuple[Prim, Storage]]) -> list[Sink]:
        order: list[Prim] = []
        seen: set[Prim] = set()

        def visit(root: Prim) -> None:
            stack: list[tuple[Prim, bool]] = [(root, False)]
            while stack:
                prim, done = stack.pop()
                if done:
                    if prim.kind == "reduce" or prim in self._forced:
                        order.append(prim)
                elif prim not in seen:
                    seen.add(prim)
                    stack.append((prim, True))
                    stack.extend((a, False) for a in reversed(prim.args))

        for prim, _ in outputs:
            visit(prim)
        sinks = [Sink.of(p, self._forced.get(p)) for p in order]
        for prim, storage in outputs:
            sinks.append(Sink.of(_output_view(prim, storage), storage))
        for sink in sinks:
            trace_sink(sink, self.tiles, self.facts, self._forced.get)
        return sinks

    def _harmonise(self, sinks: list[Sink]) -> None:
        """Split axes so that reductions and who wants their results, or reads the same memory, have the same loops."""
        of = {s.prim: s for s in sinks if s.is_reduction}
        for _ in range(8):
            misfit = next(_all_misfits(sinks, of), None)
            if misfit is None:
                return
            target, axis, inner = misfit
            split_factor(target, axis, inner)
            trace_sink(target, self.tiles, self.facts, self._forced.get)

    def _split_reductions(self, sinks: list[Sink]) -> list[Sink]:
        result: list[Sink] = []
        of = {s.prim: s for s in sinks if s.is_reduction}
        for sink in sinks:
            rows = self._rows(sink, of)
            if rows:
                result.append(sink)
                sink = self._split_by_rows(sink, rows)
            chunks = self._chunks(sink)
            if chunks is None:
                result.append(sink)
            elif sink.op.startswith("arg"):
                result += self._first_in_chunks(sink, chunks)
            else:
                storage = self._new_scratch((chunks, *sink.prim.shape), sink.prim.dtype)
                combine = self._combine_chunks(sink, sink.prim, sink.op, mem(storage))
                result += [self._in_chunks(sink, sink.op, storage, Axis(chunks)), combine]
        return result

    def _in_chunks(self, sink: Sink, op: str, storage: Storage, chunk: Axis) -> Sink:
        """The sink's reduction, or another of the same values, with a result for each chunk."""
        partial = Sink(
            reduce_prim(op, mem(storage), (0,)),
            sink.operand,
            storage,
            op,
            sink.dims,
            chunk,
            [list(f) for f in sink.factors],
        )
        trace_sink(partial, self.tiles, self.facts, self._forced.get)
        return partial

    def _combine_chunks(self, sink: Sink, prim: Prim, op: str, parts: Prim) -> Sink:
        """The sink that computes `prim` from the parts for each chunk."""
        kept = [list(sink.factors[d]) for d in sink.kept_dims]
        combine = Sink(prim, parts, None, op, (0,), factors=[[parts.shape[0]], *kept])
        trace_sink(combine, self.tiles, self.facts, self._forced.get)
        return combine

    def _first_in_chunks(self, sink: Sink, chunks: int) -> list[Sink]:
        """Every chunk's extreme and where it is; then the first of the places that have the best of them."""
        extreme, shape = sink.op[3:], (chunks, *sink.prim.shape)
        values, places = self._new_scratch(shape, sink.operand.dtype), self._new_scratch(shape, DType.I64)
        theirs = mem(values)
        best = reduce_prim(extreme, theirs, (0,))
        whole = expand(best, shape)
        same = apply("eq", (theirs, whole), DType.BOOL)
        if best.dtype.is_float:
            both = apply("and", (apply("isnan", (theirs,), DType.BOOL), apply("isnan", (whole,), DType.BOOL)))
            same = apply("or", (same, both))
        place = apply("where", (same, mem(places), const(_NOWHERE, DType.I64, shape)))
        return [
            self._in_chunks(sink, extreme, values, Axis(chunks)),
            self._in_chunks(sink, sink.op, places, Axis(chunks)),
            self._combine_chunks(sink, best, extreme, theirs),
            self._combine_chunks(sink, sink.prim, "min", place),
        ]

    def _rows(self, sink: Sink, of: Mapping[Prim, Sink]) -> list[int]:
        """The dims over which to reduce last: those of the rows whose own reductions it reads (a loss over softmaxes).

        So it is computed row by row, where those are.
        """
        if not sink.is_reduction or sink.op.startswith("arg"):
            return []
        rows: set[Axis] = set()
        for ref in sink.reds:
            pairs = _match(ref, of[ref.prim])
            if pairs is None:
                return []
            mine = {axis for _, axis in pairs}
            if mine and rows and mine != rows:
                return []
            rows |= mine
        last = [d for d in sink.dims if sink.axes[d] and rows.issuperset(sink.axes[d])]
        inner = [a for d in sink.dims if d not in last for a in sink.axes[d]]
        if not last or not inner or not rows.isdisjoint(inner) or not rows.issuperset(sink.kept_axes()):
            return []
        return last if self.facts.value(product(a.extent for a in rows)) >= MIN_PARALLEL else []

    def _split_by_rows(self, sink: Sink, rows: Sequence[int]) -> Sink:
        """Make the sink one that stores a result per row; what reduces those is returned."""
        dims = [d for d in range(len(sink.domain)) if d not in sink.dims or d in rows]
        storage = self._new_scratch(tuple(sink.domain[d] for d in dims), sink.prim.dtype)
        combine = Sink.of(sink.prim, None)
        stage = reduce_prim(sink.op, mem(storage), tuple(dims.index(d) for d in rows))
        combine.operand, combine.dims = stage.args[0], stage.attr[1]
        combine.factors = [list(sink.factors[d]) for d in dims]
        sink.dims = tuple(d for d in sink.dims if d not in rows)
        sink.prim, sink.target = stage, storage
        trace_sink(combine, self.tiles, self.facts, self._forced.get)
        return combine

    def _chunks(self, sink: Sink) -> int | None:
        """How many chunks to reduce in, when one pass would leave cores idle."""
        if not sink.is_reduction or not sink.reduced_axes():
            return None
        value = self.facts.value
        kept = value(product(a.extent for a in sink.kept_axes()))
        reduced = value(product(a.extent for a in sink.reduced_axes()))
        if kept * reduced < MIN_SPLIT_ELEMENTS * (_ARG_PHASES if sink.op.startswith("arg") else 1):
            return None
        accesses = [self._resolve(r) for r in sink.reds] + sink.loads
        vector = best_vector(accesses, [*sink.kept_axes(), *sink.reduced_axes()], self.facts)
        parallel = kept
        if vector in sink.kept_axes():
            assert vector is not None
            parallel = kept // max(1, min(COLUMN_TILE, value(vector.extent)))
        if parallel >= MIN_PARALLEL:
            return None
        return max(2, min(MAX_CHUNKS, kept * reduced // CHUNK_ELEMENTS, reduced))

    def _resolve(self, ref: RedRef) -> Access:
        """A reduction's result read from scratch memory."""
        storage = self._red_storage.get(ref.prim)
        if storage is None:
            storage = self._red_storage[ref.prim] = Storage(
                "red", -1, ref.prim.dtype, ref.prim.shape, contiguous_strides(ref.prim.shape)
            )
        return Access(storage, ref.indices)

    # ----------------------------------------------------------------------------------------------------------------
    # Nests

    def _form(self, sinks: list[Sink]) -> list[Nest]:
        nests: list[Nest] = []
        where: dict[Prim, int] = {}  # reduction -> nest
        written: dict[Storage, int] = {}
        for sink in sinks:
            earliest = max([where[r.prim] for r in sink.reds], default=0)
            earliest = max([earliest, *(written[a.storage] + 1 for a in sink.loads if a.storage in written)])
            for number in range(len(nests) - 1, earliest - 1, -1):
                if self._join(nests[number], sink):
                    break
            else:
                number = len(nests)
                nests.append(self._start(sink))
            if sink.is_reduction:
                where[sink.prim] = number
            if sink.target is not None:
                written[sink.target] = number
        self._store_shared(nests)
        return nests

    def _start(self, sink: Sink) -> Nest:
        outer = sink.kept_axes()
        nest = Nest(list(outer))
        self._add(nest, sink, {a: a for a in outer})
        return nest

    def _add(self, nest: Nest, sink: Sink, mapping: dict[Axis, Axis]) -> None:
        assert sink.tile is not None
        inner = [a for axes in sink.axes for a in axes if a not in mapping]
        at = self._place_of(sink)
        position = None
        if sink.is_reduction and sink.op.startswith("arg"):
            sizes = [sink.domain[d] for d in sink.dims]
            position = linear(sink.indices(sink.dims), sizes, nest.tiles)
        chunk = mapping[sink.chunk] if sink.chunk is not None else None
        member = Member(sink, mapping, inner, sink.tile, at, position, chunk)
        member.rename({a: b for a, b in mapping.items() if a is not b}, nest.tiles)
        for ref in sink.reds:
            producer = nest.holds(ref.prim)
            if producer is not None:
                member.level = max(member.level, producer.level + 1)
        nest.members.append(member)

    def _place_of(self, sink: Sink) -> Indices:
        """Where its value goes in its target."""
        at = sink.indices(sink.kept_dims)
        return at if sink.chunk is None else (Index(((sink.chunk, 1),)), *at)

    def _join(self, nest: Nest, sink: Sink) -> bool:
        """Add the sink to a nest when its loops fit there."""
        mapping = self._fit(nest, sink)
        if mapping is None:
            return False
        self._add(nest, sink, mapping)
        return True

    def _fit(self, nest: Nest, sink: Sink) -> dict[Axis, Axis] | None:
        """The sink's axes that are the nest's outer ones, or None when it does not belong there."""
        mapping: dict[Axis, Axis] = {}
        used = [(r, m) for r in sink.reds if (m := nest.holds(r.prim)) is not None]
        for ref, producer in used:
            pairs = _match(ref, producer.sink)
            if pairs is None:
                return None
            for theirs, mine in pairs:
                outer = producer.outer[theirs]
                if mapping.setdefault(mine, outer) is not outer:
                    return None
            if sink.chunk is not None:  # it works on results of the same chunk
                if producer.chunk is None or sink.chunk.extent != producer.chunk.extent:
                    return None
                mapping[sink.chunk] = producer.chunk
        if not used:
            shared = self._shared_axes(nest, sink)
            if shared is None:
                shared = self._partner_axes(nest, sink)
            if shared is None:
                return None
            mapping = shared
        if len(mapping) != len(nest.outer) or len(set(mapping.values())) != len(mapping):
            return None
        if sink.is_reduction and set(mapping) != set(sink.kept_axes()):
            return None
        return mapping if self._pays(nest, sink, mapping) else None

    def _pays(self, nest: Nest, sink: Sink, mapping: dict[Axis, Axis]) -> bool:
        """Whether a sink that fits into a nest is better off there: not where few rows would do much work."""
        value = self.facts.value
        rows = value(product(a.extent for a in nest.outer))
        work = value(product(sink.domain))
        if rows < MIN_PARALLEL and work >= MIN_SPLIT_ELEMENTS and not sink.is_reduction:
            return not nest.members[0].sink.is_reduction and len(mapping) >= len(sink.domain)
        return True

    def _shared_axes(self, nest: Nest, sink: Sink) -> dict[Axis, Axis] | None:
        """The mapping of all outer axes under which the sink reads (some) memory exactly as a member does."""
        return next((m for m in self._shared(nest, sink) if len(m) == len(nest.outer)), None)

    def _shared(self, nest: Nest, sink: Sink) -> Iterator[dict[Axis, Axis]]:
        """Such mappings, for one access after the other; not all name every axis of the nest."""
        own = sink.chunk
        for member in nest.members:
            if (member.sink.chunk is None) != (own is None):
                continue
            theirs = [Access(a.storage, a.indices) for a in leaves(member.tile)[1]]
            for a in sink.loads:
                for b in theirs:
                    pairs = same_access(a, b)
                    if pairs is None:
                        continue
                    mapping = {x: y for x, y in pairs.items() if y in nest.outer}
                    if own is not None and member.sink.chunk is not None:
                        if own.extent != member.sink.chunk.extent:
                            continue
                        mapping[own] = member.outer[member.sink.chunk]
                    yield mapping
            if not member.sink.is_reduction and not sink.is_reduction and not member.inner:
                mine = [x for axes in sink.axes for x in axes]
                theirs_axes = [member.outer[x] for axes in member.sink.axes for x in axes]
                if [x.extent for x in mine] == [x.extent for x in theirs_axes]:
                    yield dict(zip(mine, theirs_axes, strict=True))

    def _partner_axes(self, nest: Nest, sink: Sink) -> dict[Axis, Axis] | None:
        """The mapping under which a later sink wants its result and one of the nest's at the same place."""
        if not sink.is_reduction or sink.chunk is not None:
            return None
        for user in self._all:
            mine = next((r for r in user.reds if r.prim is sink.prim), None)
            pairs = _match(mine, sink) if mine is not None else None
            for ref in user.reds if pairs else ():
                partner = nest.holds(ref.prim)
                matched = _match(ref, partner.sink) if partner is not None and partner.chunk is None else None
                if partner is None or not matched:
                    continue
                places = {theirs: partner.outer[axis] for axis, theirs in matched}
                mapping = {axis: places[theirs] for axis, theirs in pairs or () if theirs in places}
                if set(mapping) == set(sink.kept_axes()):
                    return mapping
        return None

    def _store_shared(self, nests: list[Nest]) -> None:
        """Give scratch to the reductions that other nests read, and turn those reads into loads."""
        needed: list[Prim] = []
        for nest in nests:
            for member in nest.members:
                changes = False
                for ref in leaves(member.tile)[0]:
                    if nest.holds(ref.prim) is None:
                        changes = True
                        if ref.prim not in needed:
                            needed.append(ref.prim)
                            self._red_storage[ref.prim] = self._new_scratch(ref.prim.shape, ref.prim.dtype)
                if changes:
                    far = {p: s for p, s in self._red_storage.items() if nest.holds(p) is None}
                    member.tile = substitute(member.tile, {}, nest.tiles, far)
        for nest in nests:
            for member in nest.members:
                if member.sink.is_reduction and member.sink.target is None and member.sink.prim in needed:
                    member.sink.target = self._red_storage[member.sink.prim]


def _output_view(prim: Prim, storage: Storage) -> Prim:
    """The output as a value of its own: never a reduction itself, and once per element that memory has."""
    if any(s == 0 and n != 1 for s, n in zip(storage.strides, storage.shape, strict=True)):
        shape = tuple(1 if s == 0 else n for s, n in zip(storage.strides, storage.shape, strict=True))
        for d, n in enumerate(shape):
            if n != prim.shape[d]:
                prim = Prim("slice", (*prim.shape[:d], 1, *prim.shape[d + 1 :]), prim.dtype, (prim,), (d, 0, 1))
        return prim
    return Prim("permute", prim.shape, prim.dtype, (prim,), tuple(range(len(prim.shape))), prim.depth + 1)


def _radix(index: Index, size: Size) -> list[tuple[Axis, Size]] | None:
    """The axes of an index that counts 0 … size-1 in mixed radix, outermost first; None for any other index."""
    if index.tile is not None or index.const != 0 or index.loose:
        return None
    rest = list(index.terms)
    chain: list[tuple[Axis, Size]] = []
    reach: Size = 1
    while rest:
        for k, (axis, c) in enumerate(rest):
            if c == reach:
                chain.append((axis, c))
                reach = reach * axis.extent
                del rest[k]
                break
        else:
            return None
    return chain[::-1] if reach == size else None


def _match(ref: RedRef, producer: Sink) -> list[tuple[Axis, Axis]] | None:
    """(producer's kept axis, user's axis) pairs, when the user wants every result at exactly one outer position."""
    pairs: list[tuple[Axis, Axis]] = []
    for index, d in zip(ref.indices, producer.kept_dims, strict=True):
        if producer.domain[d] == 1:
            continue
        chain = _radix(index, producer.domain[d])
        axes = producer.axes[d]
        if chain is None or [a.extent for a, _ in chain] != [a.extent for a in axes]:
            return None
        pairs += [(mine, theirs) for mine, (theirs, _) in zip(axes, chain, strict=True)]
    return pairs


def _all_misfits(sinks: Sequence[Sink], of: Mapping[Prim, Sink]) -> Iterator[tuple[Sink, Axis, Size]]:
    """(sink, axis, inner extent): splits after which a result is wanted, or memory read, by the same loops."""
    for sink in sinks:
        for ref in sink.reds:
            producer = of[ref.prim]
            for index, d in zip(ref.indices, producer.kept_dims, strict=True):
                chain = _radix(index, producer.domain[d])
                if chain is not None:
                    yield from _misfits((sink, [a for a, _ in chain]), (producer, producer.axes[d]))
    readers: dict[Storage, list[tuple[Sink, Access]]] = {}
    for sink in sinks:
        for access in sink.loads if sink.is_reduction else ():
            readers.setdefault(access.storage, []).append((sink, access))
    for storage, accesses in readers.items():
        for (sink, a), (other, b) in itertools.combinations(accesses, 2):
            for i, j, size in zip(a.indices, b.indices, storage.shape, strict=True):
                one, two = _radix(i, size), _radix(j, size)
                if sink is not other and one is not None and two is not None:
                    yield from _misfits((sink, [x for x, _ in one]), (other, [x for x, _ in two]))


def _misfits(one: tuple[Sink, list[Axis]], two: tuple[Sink, list[Axis]]) -> Iterator[tuple[Sink, Axis, Size]]:
    (first, t), (second, m) = (one[0], list(one[1])), (two[0], list(two[1]))
    while t and m and t[-1].extent == m[-1].extent:
        t.pop()
        m.pop()
    if not t or not m:
        return
    a, b = t[-1], m[-1]
    for sink, axis, inner in ((first, a, b.extent), (second, b, a.extent)):
        if exact_div(axis.extent, inner) not in (None, 1) and any(axis in axes for axes in sink.axes):
            yield sink, axis, inner
            return
