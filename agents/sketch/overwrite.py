"""Which outputs of a sketch may lie in the memory of an input: a kernel then needs no memory beyond what is there.

    for i in range(0, M):                       y may be x's memory: an element of x is read by the iteration that
      t = load(x[i, k:k+BK])                    writes the same element of y, before it does, and by no other
      store(t / reduce_sum(t, k) -> y[i, k:k+BK])

"Before" must hold between the threads that work on one iteration, too. What a store depends on has happened before it,
so every read of x in that phase must be among what the store's value is made of. That says nothing of reads that the
threads do each for themselves, such as a scalar's: one of them may be late. But where a tile is spread over all of
them, what is made of all of it (a sum) is known only when all have read. So what is read elsewhere than written must be
a tile of at least one lane per thread.

Where lanes are taken one after the other, each from its loads to its store (as C++ loops take them, in an order of
their own), a read elsewhere may come after the write. There the output may be an input that is read, for the one store
of the sketch, exactly where that writes, if nothing collects values of several lanes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

from akg_dynamo.agents.sketch.ast import (
    Alloc,
    Assign,
    At,
    AxisDecl,
    Cast,
    Dot,
    For,
    Gather,
    Index,
    IntBin,
    IntConst,
    IntExpr,
    IntVar,
    Load,
    Name,
    Op,
    Reduce,
    Scan,
    Sketch,
    Span,
    Stmt,
    Store,
    TensorDecl,
    TensorRef,
    TileExpr,
)
from akg_dynamo.agents.sketch.intexpr import linear, variables

Binder = For | AxisDecl
Tiles = Mapping[str, IntConst]


WARP = 32


def overwritable(
    sketch: Sketch, warps: Sequence[int] = (), *, lane_by_lane: bool = False
) -> frozenset[tuple[str, str]]:
    """Pairs (output, input) of one dtype and one layout where the output may be the input's own memory.

    warps: for each phase, how many groups of threads work on one iteration; none where one thread does, or one group
        whose threads keep in step.
    lane_by_lane: a tile's lanes may be stored before others are loaded, and may be loaded again at each use.
    """
    outputs = [t for t in sketch.tensors if t.kind == "out"]
    inputs = [t for t in sketch.tensors if t.kind == "in"]
    pairs = [(y, x) for y in outputs for x in inputs if _alike(y, x)]
    if not pairs:
        return frozenset()
    walk = _Walk(sketch)
    if lane_by_lane and (walk.collects or len(walk.stores) != 1):
        return frozenset()
    return frozenset((y.name, x.name) for y, x in pairs if _may_share(walk, y.name, x.name, warps, lane_by_lane))


def _alike(y: TensorDecl, x: TensorDecl) -> bool:
    return (y.dtype, y.shape, y.strides) == (x.dtype, x.shape, x.strides)


Place = tuple[int, ...]
"""Where a load stands: the positions of its statement in the bodies around it, then its number there."""


@dataclass(frozen=True)
class _Where:
    """Where a statement stands: in which phase, inside which loops, and what the names of indices mean there."""

    phase: int
    loops: tuple[For, ...]
    scope: Mapping[str, Binder]
    place: Place


@dataclass(frozen=True)
class _Access:
    """A load or a store; of a store, the loads that its value is made of."""

    ref: TensorRef
    at: _Where
    made_of: frozenset[Place] = frozenset()


@dataclass
class _Walk:
    """All accesses of a sketch. Top-level loops are phases; what stands between them belongs to every phase.

    collects: something takes values of several lanes or iterations together, or reports on all of them.
    """

    sketch: Sketch
    loads: dict[Place, _Access] = field(default_factory=dict)
    stores: list[_Access] = field(default_factory=list)
    collects: bool = False

    def __post_init__(self) -> None:
        self._made: dict[str, frozenset[Place]] = {}
        self._bound: dict[str, Place] = {}
        phases = count()
        for i, statement in enumerate(self.sketch.body):
            phase = next(phases) if isinstance(statement, For) else -1
            self._statement(statement, _Where(phase, (), {}, (i,)))

    def _statement(self, statement: Stmt, at: _Where) -> None:
        if isinstance(statement, For):
            self._loop(statement, at)
        elif isinstance(statement, Assign):
            # A name that a loop carries is bound before it and in it.
            self.collects |= self._bound.setdefault(statement.name, at.place) != at.place
            self._made[statement.name] = self._loads(statement.value, at, count())
        elif isinstance(statement, Alloc):
            self.collects = True
            self._made[statement.name] = frozenset()
        elif isinstance(statement, Store):
            made = self._loads(statement.value, at, count()) | self._gathered(statement.ref)
            self.stores.append(_Access(statement.ref, at, made))

    def _loop(self, loop: For, at: _Where) -> None:
        entry, kept = self._made, len(self.stores)
        while True:  # until what the loop carries round is known
            self._made = dict(entry)
            scope: Mapping[str, Binder] = {**at.scope, loop.var: loop}
            for i, statement in enumerate(loop.body):
                if isinstance(statement, AxisDecl):
                    scope = {**scope, statement.var: statement}
                self._statement(statement, _Where(at.phase, (*at.loops, loop), scope, (*at.place, i)))
            carried = {name: made | entry.get(name, frozenset()) for name, made in self._made.items()}
            if carried == entry:
                return
            entry = carried
            del self.stores[kept:]

    def _loads(self, e: TileExpr, at: _Where, numbers: Iterator[int]) -> frozenset[Place]:
        """The loads that a value is made of."""
        if isinstance(e, Name):
            return self._made.get(e.name, frozenset())
        self.collects |= isinstance(e, Reduce | Scan | Dot) or (isinstance(e, Op) and e.name == "checked")
        found: frozenset[Place] = frozenset()
        if isinstance(e, Load):
            place = (*at.place, next(numbers))
            self.loads[place] = _Access(e.ref, at)
            found |= {place} | self._gathered(e.ref)
        for inner in _operands(e):
            found |= self._loads(inner, at, numbers)
        return found

    def _gathered(self, ref: TensorRef) -> frozenset[Place]:
        tiles = [i.tile for i in ref.indices if isinstance(i, Gather)]
        return frozenset().union(*(self._made.get(t, frozenset()) for t in tiles))


def _operands(e: TileExpr) -> Iterator[TileExpr]:
    if isinstance(e, Op):
        yield from e.args
    elif isinstance(e, Cast | Reduce | Scan):
        yield e.x
    elif isinstance(e, Dot):
        yield from (e.a, e.b)
    elif isinstance(e, Load) and e.where is not None:
        yield e.where


def _may_share(walk: _Walk, y: str, x: str, warps: Sequence[int], lane_by_lane: bool) -> bool:
    stores = [s for s in walk.stores if s.ref.name == y]
    loads = {place: a for place, a in walk.loads.items() if a.ref.name == x}
    if len(stores) != 1 or any(a.ref.name == y for a in walk.loads.values()):
        return False
    (store,) = stores
    tiles = {c.name: IntConst(c.value) for c in walk.sketch.constexprs}
    if store.at.phase < 0 or not _each_once(store, tiles):
        return False
    groups = warps[store.at.phase] if warps else 1
    for place, load in loads.items():
        elsewhere = len(_alike_indices(load, store)) < len(store.ref.indices)
        if lane_by_lane:
            if elsewhere or load.at.loops != store.at.loops:
                return False
            continue
        if not 0 <= load.at.phase <= store.at.phase:
            return False
        if load.at.phase < store.at.phase:
            continue
        if place not in store.made_of or not _apart(load, store, tiles):
            return False
        if elsewhere and groups > 1 and _lanes(load, tiles) < WARP * groups:
            return False
    return True


def _lanes(load: _Access, tiles: Tiles) -> int:
    """How many elements one load reads."""
    lanes = 1
    for index in load.ref.indices:
        if isinstance(index, Span):
            binder = load.at.scope[index.axis]
            size = binder.size if isinstance(binder, AxisDecl) else binder.step
            lanes *= tiles[size].value if isinstance(size, str) else size or 1
    return lanes


def _each_once(store: _Access, tiles: Tiles) -> bool:
    """Whether no iteration of a sequential loop writes what another has written (of parallel loops, none may)."""
    loops = [loop for loop in store.at.loops if not loop.parallel]
    return all(any(_tells(index, loop, store.at, tiles) for index in store.ref.indices) for loop in loops)


def _apart(load: _Access, store: _Access, tiles: Tiles) -> bool:
    """Whether an iteration reads no element that another one writes, of a parallel loop, or has written, of another.

    In a dim that both index alike, iterations that the index tells apart are apart; in any other, all may be read.
    """
    alike = _alike_indices(load, store)
    others = [loop for loop in load.at.loops if not loop.parallel and any(loop is s for s in store.at.loops)]
    if len(alike) < len(store.ref.indices):
        others += [loop for loop in store.at.loops if loop.parallel]
    return all(any(_tells(index, loop, store.at, tiles) for index in alike) for loop in others)


def _alike_indices(load: _Access, store: _Access) -> list[Index]:
    """The indices that are the same in both."""
    return [
        ours
        for ours, theirs in zip(load.ref.indices, store.ref.indices, strict=True)
        if ours == theirs
        and not isinstance(ours, Gather)
        and all(load.at.scope.get(v) is store.at.scope.get(v) for v in _names(ours))
    ]


def _tells(index: Index, loop: For, at: _Where, tiles: Tiles) -> bool:
    """Whether an index takes other values in each iteration of a loop, whatever else goes on in it."""
    if isinstance(index, At):
        return abs(_step(index.index, loop, at, tiles)) > 0
    if isinstance(index, Gather):
        return False
    binder = at.scope[index.axis]
    if any(v in at.scope for v in variables(index.shift)):
        return False
    if binder is loop:
        return True
    size = tiles.get(binder.size) if isinstance(binder, AxisDecl) and isinstance(binder.size, str) else None
    lanes = size.value if size is not None else binder.size if isinstance(binder, AxisDecl) else None
    return isinstance(lanes, int) and abs(_step(binder.start, loop, at, tiles)) >= lanes


def _step(expr: IntExpr, loop: For, at: _Where, tiles: Tiles) -> int:
    """How far an expression moves from one iteration to the next; 0 if it depends on other loops, or not evenly."""
    if {v for v in variables(expr) if v in at.scope} != {loop.var} or at.scope[loop.var] is not loop:
        return 0
    terms = linear(_with(expr, tiles))
    if any(loop.var in variables(term) for term in terms if term != IntVar(loop.var)):
        return 0
    return terms.get(IntVar(loop.var), 0)


def _with(expr: IntExpr, tiles: Tiles) -> IntExpr:
    """With tile sizes as numbers."""
    if isinstance(expr, IntVar):
        return tiles.get(expr.name, expr)
    if isinstance(expr, IntBin):
        return IntBin(expr.op, _with(expr.a, tiles), _with(expr.b, tiles))
    return expr


def _names(index: Index) -> list[str]:
    if isinstance(index, At):
        return list(variables(index.index))
    return [index.axis, *variables(index.shift)] if isinstance(index, Span) else []
