"""A subgraph that is an unrolled loop, as the loop again: one trip is designed, and repeated.

    carried = 0                                      s = alloc([j, k], f32, init=0.0)
    for trip in range(64):                           for t in range(0, n):
        carried = exp(a * dt[:, trip]) * carried       v = exp(a * load(dt[j, t])) * s
        out[:, trip] = sum(carried)                    store(reduce_sum(v, k) -> out[j, t])
                                                       s = v

The trip is a subgraph of its own: its number is a symbol, and what it carries an input and an output.
Scheduled like any other it has to come out as one nest: then the loop goes around the passes of that nest, and what is
carried never leaves the registers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from akg_dynamo.agents.designer.cuda_schedule import CudaScheduler
from akg_dynamo.agents.designer.decompose import decompose, storage_of
from akg_dynamo.agents.designer.device import Device
from akg_dynamo.agents.designer.domain import Access, Axis, Index, RedRef, Sink, Tile, Tiles, leaves
from akg_dynamo.agents.designer.nests import Carried, Member, Nest, Trips
from akg_dynamo.agents.designer.prepare import prepared
from akg_dynamo.agents.designer.prims import Storage, compute_dtype, contiguous_strides
from akg_dynamo.agents.designer.schedule import Schedule
from akg_dynamo.agents.designer.sizes import Poly, Size, SizeFacts, parse_dim, product
from akg_dynamo.agents.sketch.ast import DType
from akg_dynamo.core.types import Arg, OpNode, Ref, Subgraph, Symbol, SymInt, TensorSpec, TorchConst
from akg_dynamo.fusion.unrolled import Before, Chain, Counted, Loop, Pattern, Same, find_loop

_TRIP = "trip"  # the symbol: no subgraph has one of this name


HELD = 1 << 13
"""Elements of a row that a program may carry: more do not fit into the registers of one."""


class _TripScheduler(CudaScheduler):
    """Everything in one phase: the next trip waits for all of it."""

    def _split_reductions(self, sinks: list[Sink]) -> list[Sink]:
        return list(sinks)

    def _pays(self, nest: Nest, sink: Sink, mapping: dict[Axis, Axis]) -> bool:
        return True


@dataclass(frozen=True)
class _Trip:
    """One trip. `body` reads what is carried after the inputs of the whole, and gives what it carries on, then `outs`.

    initial: what is carried into the first trip; None: the body sees to it. final: which output of the whole it is in
    the end.
    """

    body: Subgraph
    carried: tuple[Chain, ...]
    initial: tuple[float | None, ...]
    final: tuple[int | None, ...]


def loop_of(sub: Subgraph) -> Loop | None:
    """The loop that the subgraph is, if it is one, and nothing follows it."""
    loop = find_loop([None] * len(sub.inputs) + list(sub.nodes))
    if loop is None:
        return None
    known = loop.handed_on | {out.value for out in loop.outs}
    after = set(loop.values)
    for number, node in enumerate(sub.nodes, len(sub.inputs)):
        if number not in loop.values and not after.isdisjoint(_refs(node.args)):
            return None
    if not known.issuperset(sub.outputs):
        return None
    return replace(loop, outs=tuple(out for out in loop.outs if out.value in sub.outputs))


def schedule_loop(sub: Subgraph, loop: Loop, device: Device, numerics: str) -> Schedule | str:
    """The one nest of a loop, or why it is not one."""
    trip = _one_trip(sub, loop)
    facts = SizeFacts.of(trip.body.symbols)
    values = prepared(decompose(trip.body, numerics))
    inputs = len(sub.inputs)
    targets: list[Storage] = []
    for k, final in enumerate(trip.final):
        spec = trip.body.inputs[inputs + k]
        strides = storage_of(sub.output_specs[final], "out", final).strides if final is not None else None
        stored = storage_of(spec, "out", len(sub.outputs) + k)
        targets.append(replace(stored, strides=strides or stored.strides))
    wholes = [storage_of(sub.output_specs[k], "out", k) for k in (sub.outputs.index(o.value) for o in loop.outs)]
    rows = [
        replace(w, shape=_without(w.shape, o.dim), strides=_without(w.strides, o.dim))
        for w, o in zip(wholes, loop.outs, strict=True)
    ]
    outputs = [(prim, target) for (prim, _), target in zip(values, [*targets, *rows], strict=True)]
    schedule = _TripScheduler(facts, device).schedule(outputs)
    if len(schedule.nests) != 1 or schedule.scratch:
        return "a trip of the loop is more than one phase"
    (nest,) = schedule.nests
    if len({id(p.inner) for p in nest.passes if p.inner}) > 1:
        return "a trip of the loop goes over its rows in more than one way"
    inner = next((p.inner for p in nest.passes if p.inner), [])
    held = facts.most(product(a.extent for a in inner))
    if held is None or held > HELD:
        return "a row of what the loop carries may be too long to be held"
    _with_trips(nest, Axis(loop.trips), inputs)
    assert nest.trips is not None
    for k, target in enumerate(targets):
        member = _storing(nest, target)
        source = next((a.storage for a in _loads(nest) if _is_input(a.storage, inputs + k)), None)
        if any(a.indices != member.at for a in _loads(nest) if _is_input(a.storage, inputs + k)):
            return "an element that the loop carries depends on others"
        final = trip.final[k]
        end = None if final is None else storage_of(sub.output_specs[final], "out", final)
        nest.trips.carried.append(Carried(source, target, trip.initial[k] or 0.0, member, end))
    for whole, row, out in zip(wholes, rows, loop.outs, strict=True):
        member = _storing(nest, row)
        member.sink.target = whole
        axis = nest.trips.axis
        place = Index(((axis, -1),), loop.trips - 1) if out.backwards else Index(((axis, 1),))
        member.at = (*member.at[: out.dim], place, *member.at[out.dim :])
    return schedule


def _is_input(storage: Storage, number: int) -> bool:
    return storage.kind == "in" and storage.index == number


def _without(sizes: tuple[Size, ...], dim: int) -> tuple[Size, ...]:
    return (*sizes[:dim], *sizes[dim + 1 :])


def _storing(nest: Nest, target: Storage) -> Member:
    return next(m for m in nest.members if m.sink.target is target)


def _loads(nest: Nest) -> list[Access]:
    return [a for m in nest.members for a in leaves(m.tile)[1]]


# --------------------------------------------------------------------------------------------------------------------
# One trip


def _one_trip(sub: Subgraph, loop: Loop) -> _Trip:
    carried = tuple(c for c in loop.chains if c.initial is not None)
    number_of = {id(c): k for k, c in enumerate(loop.chains)}
    specs = tuple(_held(sub.spec_of(c.values[0])) for c in carried)
    shift = len(specs)
    inputs = len(sub.inputs)
    nodes: list[OpNode] = []
    renumbered = {v: v for v in range(inputs)}

    def add(node: OpNode) -> Ref:
        nodes.append(node)
        return Ref(inputs + shift + len(nodes) - 1)

    for number, node in enumerate(sub.nodes, inputs):
        if number not in loop.values:  # the same in every trip
            same = tuple(_moved(a, renumbered) for a in node.args)
            named = tuple((name, _moved(a, renumbered)) for name, a in node.kwargs)
            renumbered[number] = add(OpNode(node.target, same, named, node.out)).index
    before: dict[int, Ref] = {}
    initial: list[float | None] = []
    for k, chain in enumerate(carried):
        assert chain.initial is not None
        state = Ref(inputs + k)
        first = sub.nodes[chain.initial - inputs] if chain.initial >= inputs else None
        value = first.args[1] if first is not None and first.target == "aten.full.default" else None
        if isinstance(value, int | float):
            initial.append(float(value))
        else:
            initial.append(None)
            state = _from_the_first(add, state, Ref(renumbered[chain.initial]), specs[k])
        before[number_of[id(chain)]] = state
    now: dict[int, Ref] = {}

    def arg(pattern: Pattern) -> Arg:
        if isinstance(pattern, tuple):
            return tuple(arg(p) for p in pattern)
        if isinstance(pattern, Same):
            return now[pattern.chain]
        if isinstance(pattern, Before):
            return before[pattern.chain]
        if isinstance(pattern, Counted):
            return SymInt(f"{_TRIP} * {pattern.step} + {pattern.first}")
        return Ref(renumbered[pattern.index]) if isinstance(pattern, Ref) else pattern

    for k, chain in enumerate(loop.chains):
        node = sub.nodes[chain.values[0] - inputs]
        args = tuple(arg(p) for p in chain.args)
        kwargs = tuple((name, arg(p)) for name, p in chain.kwargs)
        now[k] = add(OpNode(node.target, args, kwargs, node.out))
    outputs = [*(number_of[id(c)] for c in carried), *(out.chain for out in loop.outs)]
    symbols = (*sub.symbols, Symbol(_TRIP, 0, loop.trips - 1, loop.trips // 2))
    body = Subgraph((*sub.inputs, *specs), symbols, tuple(nodes), tuple(now[k].index for k in outputs))
    final = tuple(sub.outputs.index(c.values[-1]) if c.values[-1] in sub.outputs else None for c in carried)
    return _Trip(body, carried, tuple(initial), final)


def _held(spec: object) -> TensorSpec:
    """A carried value: contiguous, and in the dtype that it is computed in."""
    assert isinstance(spec, TensorSpec)
    dtype = compute_dtype(DType.from_torch_name(spec.dtype)).torch_name
    shape = tuple(parse_dim(d) for d in spec.shape)
    stride = tuple(s if isinstance(s, int) else str(s) for s in contiguous_strides(shape))
    return replace(spec, dtype=dtype, stride=stride)


def _from_the_first(add: object, state: Ref, first: Ref, spec: TensorSpec) -> Ref:
    """What a trip reads: `first` in the first one, then what was carried."""
    assert callable(add)
    scalar = TensorSpec("int64", (), (), spec.device)
    kwargs = (("device", TorchConst(f"device({spec.device!r})")), ("dtype", TorchConst("torch.int64")))
    number = add(OpNode("aten.full.default", ((), SymInt(_TRIP)), kwargs, scalar))
    begins = add(OpNode("aten.eq.Scalar", (number, 0), (), replace(scalar, dtype="bool")))
    found = add(OpNode("aten.where.self", (begins, first, state), (), spec))
    assert isinstance(found, Ref)
    return found


def _moved(arg: Arg, numbers: Mapping[int, int]) -> Arg:
    if isinstance(arg, tuple):
        return tuple(_moved(a, numbers) for a in arg)
    return Ref(numbers[arg.index]) if isinstance(arg, Ref) else arg


def _refs(arg: Arg) -> Sequence[int]:
    if isinstance(arg, tuple):
        return [r for a in arg for r in _refs(a)]
    return [arg.index] if isinstance(arg, Ref) else []


# --------------------------------------------------------------------------------------------------------------------
# The loop around it


def _with_trips(nest: Nest, axis: Axis, inputs: int) -> None:
    """Rewrites the nest's expressions: the symbol becomes an axis, and what a trip computes varies over it.

    inputs: how many tensors are read from memory; those after them are carried.
    """
    tiles = Tiles()
    memo: dict[int, Tile] = {}

    def index(i: Index) -> Index:
        times, rest = _split(i.const)
        terms = (*i.terms, (axis, times)) if times != 0 else i.terms
        return Index(terms, rest, walk(i.tile) if i.tile is not None else None, i.loose)

    def walk(t: Tile) -> Tile:
        found = memo.get(id(t))
        if found is None:
            found = memo[id(t)] = rebuilt(t)
        return found

    def rebuilt(t: Tile) -> Tile:
        if t.kind == "index":
            i = index(t.attr)
            return tiles.make("index", t.dtype, (), i, i.axes)
        if t.kind in ("load", "red"):
            at = tuple(index(i) for i in t.attr.indices)
            varies = frozenset[Axis]().union(*(i.axes for i in at))
            if t.kind == "red":
                return tiles.make("red", t.dtype, (), RedRef(t.attr.prim, at), varies | {axis})
            carried = t.attr.storage.kind == "in" and t.attr.storage.index >= inputs
            varies |= {axis} if carried else frozenset()
            return tiles.make("load", t.dtype, (), replace(t.attr, indices=at), varies)
        return tiles.make(t.kind, t.dtype, tuple(walk(a) for a in t.args), t.attr)

    for member in nest.members:
        member.tile = walk(member.tile)
        member.at = tuple(index(i) for i in member.at)
    nest.tiles = tiles
    nest.trips = Trips(axis)


def _split(const: Size) -> tuple[Size, Size]:
    """A size as (a, b) with size = a * trip + b."""
    if not isinstance(const, Poly):
        return 0, const
    times: Size = 0
    rest: Size = 0
    for monomial, c in const.terms:
        others = list(monomial)
        if _TRIP in others:
            others.remove(_TRIP)
            times = times + Poly(((tuple(others), c),)) if others else times + c
        else:
            rest = rest + Poly(((monomial, c),)) if monomial else rest + c
    return times, rest
