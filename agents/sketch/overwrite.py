"""Which outputs of a sketch may lie in the memory of an input: a kernel then needs no memory beyond what is there.

    for i in range(0, M):                       y may be x's memory: an element of x is read by the iteration that
      t = load(x[i, k:k+BK])                    writes the same element of y, before it does, and by no other
      store(t / reduce_sum(t, k) -> y[i, k:k+BK])

"Before" must hold between the threads of a GPU's program too, which run on their own between barriers. What a store
depends on has happened before it; so every read of x in that phase must be among what the store's value is made of.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
from akg_dynamo.agents.sketch.intexpr import variables

Binder = For | AxisDecl


def overwritable(sketch: Sketch) -> frozenset[tuple[str, str]]:
    """Pairs (output, input) of one dtype and one layout where the output may be the input's own memory."""
    outputs = [t for t in sketch.tensors if t.kind == "out"]
    inputs = [t for t in sketch.tensors if t.kind == "in"]
    pairs = [(y, x) for y in outputs for x in inputs if _alike(y, x)]
    if not pairs:
        return frozenset()
    walk = _Walk(sketch)
    return frozenset((y.name, x.name) for y, x in pairs if _may_share(walk, y.name, x.name))


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
    """All accesses of a sketch. Top-level loops are phases; what stands between them belongs to every phase."""

    sketch: Sketch
    loads: dict[Place, _Access] = field(default_factory=dict)
    stores: list[_Access] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._made: dict[str, frozenset[Place]] = {}
        for phase, statement in enumerate(self.sketch.body):
            self._statement(statement, _Where(phase if isinstance(statement, For) else -1, (), {}, (phase,)))

    def _statement(self, statement: Stmt, at: _Where) -> None:
        if isinstance(statement, For):
            self._loop(statement, at)
        elif isinstance(statement, Assign):
            self._made[statement.name] = self._loads(statement.value, at, count())
        elif isinstance(statement, Alloc):
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


def _may_share(walk: _Walk, y: str, x: str) -> bool:
    stores = [s for s in walk.stores if s.ref.name == y]
    loads = {place: a for place, a in walk.loads.items() if a.ref.name == x}
    if len(stores) != 1 or any(a.ref.name == y for a in walk.loads.values()):
        return False
    (store,) = stores
    if store.at.phase < 0 or any(isinstance(i, Gather) for i in store.ref.indices) or not _each_once(store):
        return False
    for place, load in loads.items():
        if not 0 <= load.at.phase <= store.at.phase:
            return False
        if load.at.phase == store.at.phase and (place not in store.made_of or not _same_elements(load, store)):
            return False
    return True


def _each_once(store: _Access) -> bool:
    """Whether no iteration of a sequential loop writes what another has written (of parallel loops, none may)."""
    plain = {_only_variable(i) for i in store.ref.indices}
    return all(loop.parallel or loop.var in plain for loop in store.at.loops)


def _only_variable(index: Index) -> str | None:
    """The variable that an index consists of, but for a shift."""
    if isinstance(index, Span):
        return index.axis
    found = list(variables(index.index)) if isinstance(index, At) else []
    return found[0] if len(found) == 1 else None


def _same_elements(load: _Access, store: _Access) -> bool:
    """Whether an iteration reads no element that another one writes, and none that it has written before.

    An index is the store's; or it runs along an axis of its own over the very range that the store's runs over, in a
    loop that has ended when the store's begins.
    """
    shared: set[str | None] = set()
    for ours, theirs in zip(load.ref.indices, store.ref.indices, strict=True):
        if ours == theirs and all(load.at.scope.get(v) is store.at.scope.get(v) for v in _names(ours)):
            shared.add(_only_variable(ours))
        elif not (isinstance(ours, Span) and isinstance(theirs, Span) and _follows(load, ours, store, theirs)):
            return False
    common = [loop for loop in load.at.loops if _within(loop, store.at.loops)]
    return all(loop.parallel or loop.var in shared for loop in common)


def _follows(load: _Access, ours: Span, store: _Access, theirs: Span) -> bool:
    ended, running = load.at.scope[ours.axis], store.at.scope[theirs.axis]
    same_range = (ended.start, ended.stop, ours.shift) == (running.start, running.stop, theirs.shift)
    named = {v for e in (ended.start, ended.stop, ours.shift) for v in variables(e)}
    return (
        same_range
        and all(load.at.scope.get(v) is store.at.scope.get(v) for v in named)
        and not (_is_parallel(ended) or _is_parallel(running))
        and not (_within(ended, store.at.loops) or _within(running, load.at.loops))
    )


def _within(binder: Binder, loops: tuple[For, ...]) -> bool:
    return any(binder is loop for loop in loops)


def _names(index: Index) -> list[str]:
    if isinstance(index, At):
        return list(variables(index.index))
    return [index.axis, *variables(index.shift)] if isinstance(index, Span) else []


def _is_parallel(binder: Binder) -> bool:
    return isinstance(binder, For) and binder.parallel
