"""Convolutions with their channels last in memory, on CUDA: what cuDNN's fast kernels compute with.

Given tensors with the channels first, cuDNN turns every input and every result (a third of a ResNet's time). With the
weights' channels last, a convolution returns its channels last, the kernels that follow keep what they are given, and
the next convolution has nothing to turn. Only the graph's inputs and outputs are as the program has them.

    conv = aten.convolution(x, w, …)            w1 = aten.clone(w, memory_format=channels_last)
    relu = aten.relu(conv)                      conv = aten.convolution(x, w1, …)        channels last from here on
    return relu                                 relu = aten.relu(conv)
                                                out = aten.clone(relu, memory_format=contiguous_format)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch._guards import detect_fake_mode
from torch._subclasses.fake_tensor import FakeTensorMode

from akg_dynamo.core.types import SplitReason, SplitReasonType

aten = torch.ops.aten

_SMALL = 64  # channels
_NODES_PER_CONVOLUTION = 300  # of a graph that is about something else


class _GiveUp(Exception):
    """The rewritten graph would not do what the original does."""


def channels_last(gm: fx.GraphModule, *, device: str = "cuda") -> bool:
    """Rewrites the graph of `gm`, if that is likely to pay; says whether it did. For sizes that are known."""
    if not _pays(gm.graph, device):
        return False
    mode = detect_fake_mode([n.meta["val"] for n in gm.graph.nodes if isinstance(n.meta.get("val"), torch.Tensor)])
    if mode is None:
        return False
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    graph.graph_copy(gm.graph, copies)
    try:
        for node in list(graph.nodes):
            _Step(graph, node, mode).take()
        graph.output(_results_as_before(gm.graph, graph, copies, mode))
    except _GiveUp:
        return False
    output = next(n for n in reversed(graph.nodes) if n.op == "output")
    output.meta = dict(next(n for n in reversed(gm.graph.nodes) if n.op == "output").meta)
    gm.graph = graph
    return True


# --------------------------------------------------------------------------------------------------------------------
# Whether to


def _pays(graph: fx.Graph, device: str) -> bool:
    """By the shapes of the convolutions: what is known to be slower with the channels last is left as it is."""
    weights, others = [], 0
    for node in graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, torch.SymInt) or (isinstance(value, torch.Tensor) and not _is_static(value)):
            return False
        others += 1
        if node.target is aten.convolution.default:
            x, weight = (a.meta["val"] for a in node.args[:2])
            if x.dim() != 4 or x.device.type != device or node.args[6] or not x.dtype.is_floating_point:
                return False
            weights.append((weight.shape, node.args[8]))
    if not weights or others > _NODES_PER_CONVOLUTION * len(weights):
        return False
    grouped = any(groups > 1 and shape[1] > 1 for shape, groups in weights)
    narrowing = any(2 * shape[0] <= shape[1] and shape[2] > 1 for shape, _ in weights)
    small = all(shape[0] <= _SMALL and shape[1] <= _SMALL for shape, _ in weights)
    return not (grouped or narrowing or small)


def _is_static(value: torch.Tensor) -> bool:
    return all(isinstance(size, int) for size in value.shape)


# --------------------------------------------------------------------------------------------------------------------
# The rewriting: every node's value anew, from operands that may be laid out otherwise


class _Step:
    """One node of the new graph."""

    def __init__(self, graph: fx.Graph, node: fx.Node, mode: FakeTensorMode) -> None:
        self.graph, self.node, self.mode = graph, node, mode

    def take(self) -> None:
        """Gives the node its value; turns a convolution's weight, and the operand of a view that needs it."""
        node, target = self.node, self.node.target
        if node.op != "call_function" or "val" not in node.meta:
            return
        if isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable:
            return
        if target is aten.convolution.default:
            self._turn(1, torch.channels_last, _WEIGHT)
        before = node.meta["val"]
        try:
            after = self._value()
        except _REFUSALS:  # a view that these strides do not allow
            after = self._of_a_contiguous_operand()
        if not _alike(before, after):
            raise _GiveUp
        if target is aten.convolution.default and not after.is_contiguous(memory_format=torch.channels_last):
            raise _GiveUp  # this library returns what it likes
        node.meta["val"] = after

    def _of_a_contiguous_operand(self) -> Any:
        if not self.node.args or not isinstance(self.node.args[0], fx.Node):
            raise _GiveUp
        self._turn(0, torch.contiguous_format, None)
        try:
            return self._value()
        except _REFUSALS as refusal:
            raise _GiveUp from refusal

    def _value(self) -> Any:
        """What the node computes, of its operands as they are now."""

        def value(argument: Any) -> Any:
            return fx.map_arg(argument, lambda n: n.meta["val"])

        with self.mode:
            return self.node.target(*value(self.node.args), **value(self.node.kwargs))  # type: ignore[operator]

    def _turn(self, position: int, layout: torch.memory_format, reason: SplitReason | None) -> None:
        """Has the node read a copy of an operand with that layout, unless it has it."""
        operand = self.node.args[position]
        assert isinstance(operand, fx.Node)
        if operand.meta["val"].is_contiguous(memory_format=layout):
            return
        with self.graph.inserting_before(self.node):
            copy = _copied(self.graph, operand, layout, self.mode)
        if reason is not None:
            copy.meta["stays_with_torch"] = reason
        self.node.update_arg(position, copy)


_REFUSALS = (RuntimeError, ValueError)
_WEIGHT = SplitReason(SplitReasonType.CONV, "laid out for its convolution")


def _copied(graph: fx.Graph, operand: fx.Node, layout: torch.memory_format, mode: FakeTensorMode) -> fx.Node:
    copy = graph.call_function(aten.clone.default, (operand,), {"memory_format": layout})
    with mode:
        copy.meta["val"] = operand.meta["val"].clone(memory_format=layout)
    return copy


def _alike(a: Any, b: Any) -> bool:
    """Whether two values differ in their layout at most."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and a.device == b.device
    if isinstance(a, tuple | list) and isinstance(b, tuple | list):
        return len(a) == len(b) and all(map(_alike, a, b))
    return type(a) is type(b) and not isinstance(a, torch.Tensor)


def _results_as_before(old: fx.Graph, new: fx.Graph, copies: dict[fx.Node, fx.Node], mode: FakeTensorMode) -> Any:
    """What the new graph returns: with the strides of what the old one returns."""
    (results,) = next(n for n in reversed(old.nodes) if n.op == "output").args

    def result(node: fx.Node) -> fx.Node:
        before, copy = node.meta.get("val"), copies[node]
        after = copy.meta.get("val")
        if not isinstance(before, torch.Tensor) or not isinstance(after, torch.Tensor):
            return copy
        if before.stride() == after.stride():
            return copy
        if not before.is_contiguous():
            raise _GiveUp
        return _copied(new, copy, torch.contiguous_format, mode)

    return fx.map_arg(results, result)
