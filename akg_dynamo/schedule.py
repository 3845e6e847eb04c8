"""The order in which a graph with regions contracted is executed, and what of it is executed at all.

A region is a set of nodes computed by one kernel. What nobody needs is left out; random draws, effects and writes keep
the order they had; a region that could not be placed without a cycle is given up, and its nodes stay with torch.
"""

from __future__ import annotations

import heapq
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from akg_dynamo.fusion.symbols import SymbolSource, symbol_sources


@dataclass(frozen=True, eq=False)
class Region:
    """Nodes that one kernel computes: called with `inputs` then `symbols`, returns `outputs`.

    symbols: where the integers that follow the tensors are found.
    first_run: what the first call goes through instead of `run`.
    run_into: `run` in memory that is given: called with a tensor for each output, then as `run` is.
    in_place: pairs (output, input), by position: `run_into` may be given that input for that output.
    reads_addresses: of a tensor it asks nothing but where it begins: it may be given another one that begins there.
    """

    name: str
    nodes: frozenset[fx.Node]
    inputs: tuple[fx.Node, ...]
    symbols: tuple[SymbolSource, ...]
    outputs: tuple[fx.Node, ...]
    run: Callable[..., tuple[torch.Tensor, ...]]
    first_run: Callable[..., tuple[torch.Tensor, ...]] | None = None
    run_into: Callable[..., tuple[torch.Tensor, ...]] | None = None
    in_place: tuple[tuple[int, int], ...] = ()
    reads_addresses: bool = False


Step = fx.Node | Region


def is_mutating(node: fx.Node) -> bool:
    """Whether the node writes into one of its arguments."""
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable


def is_ordered(node: fx.Node) -> bool:
    """Whether the node must keep its place among its like: random draws and effects."""
    target = node.target
    if node.op != "call_function":
        return False
    if isinstance(target, torch._ops.OpOverload):
        return torch.Tag.nondeterministic_seeded in target.tags or node.is_impure() or not target._schema.returns
    if isinstance(target, torch._ops.HigherOrderOperator):
        return True
    return node.is_impure()


def is_kept(node: fx.Node) -> bool:
    """Whether the node is executed even when nobody reads it."""
    if node.op != "call_function":
        return False
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return is_mutating(node) or node.is_impure() or not target._schema.returns
    return isinstance(target, torch._ops.HigherOrderOperator) or node.is_impure()


class SymbolSources:
    """Where each symbol's value is found at run time: a placeholder, a tensor's size, or a node that computes it."""

    def __init__(self, graph: fx.Graph) -> None:
        self.of: dict[Any, SymbolSource] = dict(symbol_sources(graph))
        for node in graph.nodes:
            value = node.meta.get("val")
            if isinstance(value, torch.SymInt) and value.node.expr.is_Symbol:
                self.of.setdefault(value.node.expr, SymbolSource(node, None))

    def symbols(self, size: object) -> list[SymbolSource]:
        """The sources of the symbols in a size."""
        symbols = size.node.expr.free_symbols if isinstance(size, torch.SymInt) else ()
        return [self.of[symbol] for symbol in sorted(symbols, key=str)]


def schedule(graph: fx.Graph, regions: Sequence[Region]) -> tuple[list[Step], list[Region]]:
    """The steps in the order of execution (no placeholders, no output), and the regions that had to be given up."""
    given_up: list[Region] = []
    regions = list(regions)
    while True:
        steps, stuck = _place(graph, regions)
        if not stuck:
            return steps, given_up
        given_up += stuck
        regions = [r for r in regions if r not in stuck]


def _needed(graph: fx.Graph, regions: Sequence[Region]) -> tuple[list[Step], dict[fx.Node, Region]]:
    """What has to be executed, found from the end."""
    producer = {node: region for region in regions for node in region.outputs}
    wanted: set[fx.Node | Region] = set()
    stack: list[fx.Node] = []
    position = {node: i for i, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        if node.op == "output":
            stack += node.all_input_nodes
        elif is_kept(node):
            stack.append(node)
    while stack:
        node = stack.pop()
        step: Step = producer.get(node, node)
        if step in wanted:
            continue
        wanted.add(step)
        stack += step_inputs(step)
    steps = sorted(wanted, key=lambda s: max(position[n] for n in s.nodes) if isinstance(s, Region) else position[s])
    return steps, producer


def step_inputs(step: Step) -> list[fx.Node]:
    """The values a step reads."""
    if isinstance(step, Region):
        return [*step.inputs, *(source.node for source in step.symbols)]
    return step.all_input_nodes


def _place(graph: fx.Graph, regions: Sequence[Region]) -> tuple[list[Step], list[Region]]:
    order, producer = _needed(graph, regions)
    rank = _ranks(order, producer)
    first = {node: i for i, node in enumerate(graph.nodes)}
    after: dict[Step, list[Step]] = {step: [] for step in order}
    waiting = dict.fromkeys(order, 0)

    def edge(before: Step, later: Step) -> None:
        after[before].append(later)
        waiting[later] += 1

    last_ordered: fx.Node | None = None
    barrier: fx.Node | None = None
    since_barrier: list[Step] = []
    for step in order:
        for node in {producer.get(n, n) for n in step_inputs(step)}:
            edge(node, step)
        if isinstance(step, Region):
            # Placed by its last node: if it began before a write it must not slip behind it.
            since_barrier.append(step)
            if barrier is not None and min(first[n] for n in step.nodes) > first[barrier]:
                edge(barrier, step)
            continue
        if step.op in ("placeholder", "get_attr"):
            continue
        if is_ordered(step):
            if last_ordered is not None:
                edge(last_ordered, step)
            last_ordered = step
        if barrier is not None:
            edge(barrier, step)
        if is_mutating(step):
            for earlier in since_barrier:
                edge(earlier, step)
            barrier, since_barrier = step, []
        else:
            since_barrier.append(step)

    ready = [rank[s] for s in order if not waiting[s]]
    heapq.heapify(ready)
    placed: list[Step] = []
    while ready:
        step = order[heapq.heappop(ready)[1]]
        placed.append(step)
        for later in after[step]:
            waiting[later] -= 1
            if not waiting[later]:
                heapq.heappush(ready, rank[later])
    stuck = [s for s in order if waiting[s] and isinstance(s, Region)]
    # Only some of what is stuck is on a cycle: give up the earliest, which holds the others back.
    return [s for s in placed if isinstance(s, Region) or s.op != "placeholder"], stuck[:1]


def _ranks(order: Sequence[Step], producer: dict[fx.Node, Region]) -> dict[Step, tuple[float, int]]:
    """Who goes first among those that could: the graph's order, but a region no later than its first reader, though it
    may hold nodes of the far end of the graph, and a view right before it is read.
    """
    first_reader: dict[Step, float] = {}
    ranks: dict[Step, tuple[float, int]] = {}
    for _ in range(2):  # a region's first reader may stand before its last node: it is met in the first round
        for index in reversed(range(len(order))):
            step = order[index]
            rank = float(index)
            if isinstance(step, Region):
                rank = min(rank, first_reader.get(step, rank) - 0.5)
            elif step.op == "call_function" and is_view(step):
                rank = max(rank, first_reader.get(step, rank) - 0.5)
            ranks[step] = (rank, index)
            for node in step_inputs(step):
                source: Step = producer.get(node, node)
                first_reader[source] = min(first_reader.get(source, rank), rank)
    return ranks


def is_view(node: fx.Node) -> bool:
    """Whether the node's result shares the storage of its first argument."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        returns = target._schema.returns
        return any(r.alias_info is not None and not r.alias_info.is_write for r in returns) or target in _MAY_ALIAS
    if target is operator.getitem:
        source = node.args[0]
        return isinstance(source, fx.Node) and is_view(source)
    return False


_MAY_ALIAS = frozenset({torch.ops.aten._unsafe_view.default, torch.ops.aten._reshape_alias.default})
