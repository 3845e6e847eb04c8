"""Loops that tracing has unrolled, and what one trip of such a loop is.

    for i in range(64):                          select   = select(a, 2, 0)
        state = a[:, :, i] * state + x           mul      = mul(select, zeros)
        outs.append(f(state))        traced as   add      = add(mul, x)
    torch.stack(outs)                            f        = f(add)
                                                 select_1 = select(a, 2, 1)
                                                 mul_1    = mul(select_1, add)
                                                 ...
                                                 stack    = stack([f, f_1, ...])

It is found from the end: the graph behind one operand of the stack is laid over the graph behind the next. Nodes that
meet are one operation in two trips; a chain of such nodes is that operation in all of them. What a chain reads is the
same in every trip, or of its own trip, or of the trip before (the values that the loop carries), or an index that
counts. A backward pass goes the other way: its first trip is the stack's last operand.

What only the next trip reads the last trip need not compute, and autograd does not: such a chain is one value shorter.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import fx

from akg_dynamo.core.types import Arg, OpNode, Ref, TensorSpec, TorchConst
from akg_dynamo.fusion.ops import OpKind, classify, follows_view, fusible, tensors_of

LEAST_TRIPS = 4


@dataclass(frozen=True)
class Same:
    """The value of another chain in the same trip."""

    chain: int


@dataclass(frozen=True)
class Before:
    """The value of a chain in the trip before; in the first trip its `initial`."""

    chain: int


@dataclass(frozen=True)
class Counted:
    """An index: `first` in the first trip, and `step` more in each after it."""

    first: int
    step: int


Pattern: TypeAlias = "Arg | Same | Before | Counted | tuple[Pattern, ...]"


@dataclass(frozen=True)
class Chain:
    """One operation of the loop's body: its value in every trip, and its arguments in any.

    A `Ref` among them is to what all trips share. What the last trip leaves out, it may compute all the same.
    initial: the value that the first trip reads where the others read this chain's from the trip before.
    """

    values: tuple[int, ...]
    args: tuple[Pattern, ...]
    kwargs: tuple[tuple[str, Pattern], ...]
    initial: int | None


@dataclass(frozen=True)
class Stacked:
    """Value number `value`: a chain's values, stacked along `dim`; backwards: those of the last trip first."""

    chain: int
    value: int
    dim: int
    backwards: bool = False


@dataclass(frozen=True)
class Loop:
    """A loop that stacks values of its trips. Chains: in the order of a trip."""

    trips: int
    chains: tuple[Chain, ...]
    outs: tuple[Stacked, ...]

    @property
    def values(self) -> frozenset[int]:
        """Every value that the loop computes."""
        return frozenset(v for c in self.chains for v in c.values) | {out.value for out in self.outs}

    @property
    def handed_on(self) -> frozenset[int]:
        """What is carried after the last trip, as far as that computes it."""
        return frozenset(c.values[-1] for c in self.chains if c.initial is not None and len(c.values) == self.trips)


def find_loop(ops: Sequence[OpNode | None]) -> Loop | None:
    """The largest loop that carries something from trip to trip and ends in an `aten.stack`, if there is one.

    ops: the operation that gives each value; None for an input.
    """
    return max(_loops(ops), key=lambda loop: len(loop.values), default=None)


def _loops(ops: Sequence[OpNode | None]) -> list[Loop]:
    """The loop behind each stack, with the other stacks of its values."""
    stacks = {v: refs for v, op in enumerate(ops) if op is not None and (refs := _stacked(op))}
    found = (_loop_before(ops, refs) or _loop_before(ops, refs[::-1]) for refs in stacks.values())
    return [_with_stacks(ops, loop, stacks) for loop in found if loop is not None]


def _stacked(op: OpNode) -> list[int]:
    """What a stack of many different values has for operands."""
    if op.target != "aten.stack.default":
        return []
    values = [a.index for a in _flat(op.args[0]) if isinstance(a, Ref)]
    return values if len(values) >= LEAST_TRIPS and len(set(values)) == len(values) else []


def _loop_before(ops: Sequence[OpNode | None], outs: Sequence[int]) -> Loop | None:
    rows = _chains(ops, outs)
    if rows is None:
        return None
    rows.sort()  # a trip's operations follow one another as in the first
    place = {value: (c, trip) for c, row in enumerate(rows) for trip, value in enumerate(row)}
    if any(place.get(v) is None or place[v][1] != trip for trip, v in enumerate(outs)):
        return None
    reader = _Reader(place, len(outs))
    try:
        read = [reader.read([ops[v] for v in row]) for row in rows]
    except _NoLoop:
        return None
    if not reader.initial:
        return None  # its trips do not depend on one another
    chains = tuple(Chain(tuple(row), *read[c], reader.initial.get(c)) for c, row in enumerate(rows))
    return Loop(len(outs), chains, ())


def _with_stacks(ops: Sequence[OpNode | None], loop: Loop, stacks: Mapping[int, Sequence[int]]) -> Loop:
    number = {chain.values: c for c, chain in enumerate(loop.chains)}
    outs: list[Stacked] = []
    for value, refs in stacks.items():
        for backwards, values in ((False, tuple(refs)), (True, tuple(refs[::-1]))):
            if values in number and len(values) == loop.trips:
                outs.append(Stacked(number[values], value, _dim(ops[value]), backwards))
    return replace(loop, outs=tuple(outs))


def _dim(stack: OpNode | None) -> int:
    assert stack is not None
    assert isinstance(stack.out, TensorSpec)
    dim = stack.args[1] if len(stack.args) > 1 else dict(stack.kwargs).get("dim", 0)
    assert isinstance(dim, int)
    return dim % len(stack.out.shape)


def _chains(ops: Sequence[OpNode | None], outs: Sequence[int]) -> list[list[int]] | None:
    """The values of every operation behind `outs`, trip by trip; None where trips differ.

    Of a row that the last trip leaves out there is one less.
    """
    after: dict[int, int] = {}
    before: dict[int, int] = {}
    stack = list(itertools.pairwise(outs))
    while stack:
        a, b = stack.pop()
        if a == b or after.get(a) == b:
            continue
        one, two = ops[a], ops[b]
        if one is None or two is None or not _alike(one, two):
            continue  # where the first trip begins; or else the reader will not make sense of it
        if a in after or b in before:
            return None
        after[a], before[b] = b, a
        stack += [(x, y) for x, y in zip(_refs(one), _refs(two), strict=True) if x != y]
    rows: list[list[int]] = []
    for head in after.keys() - before.keys():
        row = [head]
        while row[-1] in after:
            row.append(after[row[-1]])
        if len(row) not in (len(outs), len(outs) - 1):
            return None
        rows.append(row)
    return rows or None


_COUNTING = {"aten.select.int": (2,), "aten.slice.Tensor": (2, 3)}
"""Arguments that may count, by position."""


def _alike(one: OpNode, two: OpNode) -> bool:
    """Whether two nodes may be the same operation in two trips."""
    if one.target != two.target or one.out != two.out or len(one.args) != len(two.args):
        return False
    counting = _COUNTING.get(one.target, ())
    args = zip(one.args, two.args, strict=True)
    if not all(k in counting or _same_form(a, b) for k, (a, b) in enumerate(args)):
        return False
    return [k for k, _ in one.kwargs] == [k for k, _ in two.kwargs] and all(
        _same_form(a, b) for (_, a), (_, b) in zip(one.kwargs, two.kwargs, strict=True)
    )


def _same_form(a: Arg, b: Arg) -> bool:
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(_same_form, a, b))
    return (isinstance(a, Ref) and isinstance(b, Ref)) or (type(a) is type(b) and a == b)


def _flat(arg: Arg) -> Iterator[Arg]:
    if isinstance(arg, tuple):
        for a in arg:
            yield from _flat(a)
    else:
        yield arg


def _refs(op: OpNode) -> list[int]:
    args: tuple[Arg, ...] = (*op.args, *(v for _, v in op.kwargs))
    return [a.index for a in _flat(args) if isinstance(a, Ref)]


class _NoLoop(Exception):
    """The trips do not read alike."""


class _Reader:
    """What the operations of a row have for arguments, in any trip. place: (chain, trip) of each value of the loop."""

    def __init__(self, place: Mapping[int, tuple[int, int]], trips: int) -> None:
        self.place, self.trips = place, trips
        self.initial: dict[int, int] = {}

    def read(self, row: Sequence[OpNode | None]) -> tuple[tuple[Pattern, ...], tuple[tuple[str, Pattern], ...]]:
        """The arguments and keyword arguments of a chain."""
        ops = [op for op in row if op is not None]
        args = tuple(self._pattern(column) for column in zip(*(op.args for op in ops), strict=True))
        names = [name for name, _ in ops[0].kwargs]
        kwargs = zip(*([v for _, v in op.kwargs] for op in ops), strict=True)
        return args, tuple((name, self._pattern(column)) for name, column in zip(names, kwargs, strict=True))

    def _pattern(self, column: Sequence[Arg]) -> Pattern:
        first = column[0]
        if isinstance(first, tuple):
            return tuple(self._pattern(c) for c in zip(*(a for a in column if isinstance(a, tuple)), strict=True))
        if isinstance(first, Ref):
            return self._value([a.index for a in column if isinstance(a, Ref)])
        if all(type(a) is type(first) and a == first for a in column):
            return first
        numbers = [a for a in column if isinstance(a, int) and not isinstance(a, bool)]
        if len(numbers) == len(column) and numbers[0] >= 0 and numbers[-1] >= 0:
            step = numbers[1] - numbers[0]
            if len(numbers) < self.trips and (step > 0 or numbers[-1] + step < 0):
                raise _NoLoop  # a last trip that computed this would read beyond the end
            if numbers == [numbers[0] + step * trip for trip in range(len(numbers))]:
                return Counted(numbers[0], step)
        raise _NoLoop

    def _value(self, values: Sequence[int]) -> Pattern:
        places = [self.place.get(v) for v in values]
        if len(set(values)) == 1 and places[0] is None:
            return Ref(values[0])
        second = places[1]
        if second is None:
            raise _NoLoop
        chain = second[0]
        if places == [(chain, trip) for trip in range(len(values))]:
            return Same(chain)
        if places == [None, *((chain, trip) for trip in range(len(values) - 1))]:
            if self.initial.setdefault(chain, values[0]) != values[0]:
                raise _NoLoop
            return Before(chain)
        raise _NoLoop


# --------------------------------------------------------------------------------------------------------------------
# In a graph


@dataclass(frozen=True)
class GraphLoop:
    """A loop in a graph: `nodes` by value number."""

    loop: Loop
    nodes: Sequence[fx.Node]

    @property
    def inside(self) -> set[fx.Node]:
        """What the loop computes."""
        return {self.nodes[v] for v in self.loop.values}


def graph_loops(graph: fx.Graph) -> list[GraphLoop]:
    """The loops of a graph: of those that share nodes the largest."""
    nodes = list(graph.nodes)
    if not any(n.target is torch.ops.aten.stack.default and len(n.args[0]) >= LEAST_TRIPS for n in nodes):
        return []
    number = {node: i for i, node in enumerate(nodes)}
    found: list[GraphLoop] = []
    taken: set[int] = set()
    for loop in sorted(_loops([_as_op(node, number) for node in nodes]), key=lambda loop: -len(loop.values)):
        if taken.isdisjoint(loop.values):
            taken |= loop.values
            found.append(GraphLoop(loop, nodes))
    return found


def unrolled_loops(graph: fx.Graph, device: str) -> list[frozenset[fx.Node]]:
    """The nodes of each loop that one kernel can compute, with what only they read and elementwise kernels compute.

    Nothing else reads what the loop computes but the stacks, and what it carries after the last trip.
    """
    found: list[frozenset[fx.Node]] = []
    for each in graph_loops(graph):
        inside = each.inside
        last = {each.nodes[v] for v in each.loop.handed_on}
        last |= {each.nodes[out.value] for out in each.loop.outs}
        alone = all(node in last or inside.issuperset(node.users) or _shows(node, inside) for node in inside)
        if alone and all(computable(node, device) for node in inside):
            found.append(frozenset(_with_operands(each.nodes, inside, device)))
    return found


def _shows(node: fx.Node, inside: set[fx.Node]) -> bool:
    """Whether it is a view of what the loop has not computed: that costs nothing to make twice."""
    while node in inside and classify(node) is OpKind.VIEW:
        node = node.all_input_nodes[0]
    return node not in inside


def _with_operands(nodes: Sequence[fx.Node], inside: set[fx.Node], device: str) -> set[fx.Node]:
    for node in reversed(nodes):
        follows = classify(node) in (OpKind.POINTWISE, OpKind.CAST, OpKind.VIEW) and computable(node, device)
        if follows and node.users and inside.issuperset(node.users):
            inside.add(node)
    return inside


def computable(node: fx.Node, device: str) -> bool:
    """Whether a kernel may compute the node, or it is a view that it can follow."""
    kind = classify(node)
    if kind is OpKind.VIEW:
        return follows_view(node) and isinstance(node.meta.get("val"), torch.Tensor)
    return kind.computes and fusible(node, device) is None


def _as_op(node: fx.Node, number: Mapping[fx.Node, int]) -> OpNode | None:
    if node.op != "call_function":
        return None

    def arg(a: object) -> Arg:
        if isinstance(a, fx.Node):
            return Ref(number[a])
        if isinstance(a, tuple | list):
            return tuple(arg(x) for x in a)
        return a if a is None or isinstance(a, bool | int | float | complex | str) else TorchConst(str(a))

    specs = tuple(
        TensorSpec(str(t.dtype), tuple(map(str, t.shape)), tuple(map(str, t.stride())), t.device.type)
        for t in tensors_of(node.meta.get("val"))
    )
    out = specs[0] if len(specs) == 1 else specs
    kwargs = tuple((k, arg(v)) for k, v in sorted(node.kwargs.items()))
    return OpNode(str(node.target), tuple(map(arg, node.args)), kwargs, out)
