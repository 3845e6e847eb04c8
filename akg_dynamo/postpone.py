"""Which results are computed last, so that less memory is held where most of it is.

The gradient of a weight is made where its operands are, and then held to the end of the backward pass, though nobody
reads it before. Where it is larger than what it is made from, that comes last:

    grad_weight = torch.mm(grad_logits.t(), hidden)   grad_hidden = torch.mm(grad_logits, weight)
    grad_hidden = torch.mm(grad_logits, weight)       ...
    ...                                               grad_weight = torch.mm(grad_logits.t(), hidden)
    return grad_weight, ...                           return grad_weight, ...
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from akg_dynamo.overwrite import overwriting
from akg_dynamo.schedule import Region, Step, is_kept, is_mutating, is_ordered, is_view, step_inputs

_TRIED = 32
"""At most this many results are tried, the largest first."""
_WORTH = 0.005
"""Of the peak: what must be saved for the order to be changed."""


def postpone(steps: Sequence[Step], output: fx.Node, *, freed: Collection[fx.Node] = ()) -> list[Step]:
    """The steps in an order with a lower peak, if there is one; sizes must be known.

    freed: inputs of the graph that are freed when they have been read last.
    """
    order = list(steps)
    memory = _Memory.of(order, output, freed)
    if memory is None:
        return order
    peak = memory.peak(order)
    least = int(_WORTH * peak) + 1
    tails = [tail for tail in _tails(order) if memory.made(tail[0]) >= least]
    for tail in sorted(tails, key=lambda tail: -memory.made(tail[0]))[:_TRIED]:
        members = set(tail)
        trial = [*(step for step in order if step not in members), *tail]
        found = memory.peak(trial)
        if found + least <= peak:
            order, peak = trial, found
    return order


def _tails(steps: Sequence[Step]) -> list[list[Step]]:
    """Steps that only the graph's output reads, each with the views of its results that are returned."""
    readers: dict[fx.Node, list[Step]] = {}
    for step in steps:
        for node in step_inputs(step):
            readers.setdefault(node, []).append(step)
    tails: list[list[Step]] = []
    for step in reversed(steps):
        if not isinstance(step, Region):
            if is_mutating(step):
                break  # nothing moves past a write
            if is_kept(step) or is_ordered(step) or _shows(step):
                continue
        tail = _tail(step, readers)
        if tail is not None:
            tails.append(tail)
    return tails


def _tail(step: Step, readers: Mapping[fx.Node, Sequence[Step]]) -> list[Step] | None:
    tail = [step]
    todo = [*_results(step)]
    while todo:
        for reader in readers.get(todo.pop(), ()):
            if isinstance(reader, Region) or not _shows(reader):
                return None
            tail.append(reader)
            todo.append(reader)
    return tail


def _shows(node: fx.Node) -> bool:
    """Whether the node holds the memory of its first argument."""
    return node.op == "call_function" and (is_view(node) or node.target is operator.getitem)


def _results(step: Step) -> Sequence[fx.Node]:
    return step.outputs if isinstance(step, Region) else (step,)


class _Memory:
    """How much of it an order takes."""

    def __init__(self, owner: Mapping[fx.Node, fx.Node], size: Mapping[fx.Node, int], output: fx.Node) -> None:
        self.owner = owner
        self.size = size
        self.returned = {owner[n] for n in output.all_input_nodes if n in owner}

    @classmethod
    def of(cls, steps: Sequence[Step], output: fx.Node, freed: Collection[fx.Node]) -> _Memory | None:
        """That of a graph whose sizes are known."""
        owner = {node: node for node in freed}
        for step in steps:
            for node in _results(step):
                source = node.all_input_nodes[0] if not isinstance(step, Region) and _shows(node) else None
                if source is None:
                    owner[node] = node
                elif source in owner:
                    owner[node] = owner[source]
        size: dict[fx.Node, int] = {}
        for node in set(owner.values()):
            found = _bytes(node.meta.get("val"))
            if found is None:
                return None
            size[node] = found
        return cls(owner, size, output)

    def made(self, step: Step) -> int:
        """Bytes of the step's results."""
        return sum(self.size[n] for n in _results(step) if self.owner.get(n) is n)

    def peak(self, order: Sequence[Step]) -> int:
        """The most that is held at any time."""
        last: dict[fx.Node, int] = {}
        for position, step in enumerate(order):
            for node in (*step_inputs(step), *_results(step)):
                if node in self.owner:
                    last[self.owner[node]] = position
        dying: list[list[fx.Node]] = [[] for _ in order]
        for node, position in last.items():
            if node not in self.returned:
                dying[position].append(node)
        first = {n for step in order for n in _results(step)}
        held = sum(size for node, size in self.size.items() if node not in first)
        most = held
        for position, step in enumerate(order):
            held += self.made(step)
            most = max(most, held - self._reused(step, dying[position]))
            held -= sum(self.size[n] for n in dying[position])
        return most

    def _reused(self, step: Step, dying: Sequence[fx.Node]) -> int:
        """Bytes that the step writes over what it reads last."""
        if isinstance(step, Region):
            pairs = [(step.outputs[o], step.inputs[i]) for o, i in step.in_place if step.run_into is not None]
        elif overwriting(step) is not None:
            pairs = [(step, n) for n in step.all_input_nodes]
        else:
            return 0
        over: dict[fx.Node, fx.Node] = {}
        for result, operand in pairs:
            base = self.owner.get(operand)
            if (
                base is not None
                and base in dying
                and base not in over.values()
                and self.size[base] == self.size[result]
            ):
                over.setdefault(result, base)
        return sum(self.size[n] for n in over.values())


def _bytes(value: Any) -> int | None:
    """Of the tensors in a node's value; None if a size is not known."""
    if isinstance(value, (tuple, list)):
        sizes = [_bytes(v) for v in value]
        return None if None in sizes else sum(s for s in sizes if s is not None)
    if not isinstance(value, torch.Tensor):
        return 0
    elements = value.numel()
    return elements * value.element_size() if isinstance(elements, int) else None
