"""What is the same along a dim is computed once for it, and expanded where it is read.

A mask is made for every sequence of a batch, and for every head; often all of them are equal:

    wide = aten.expand(allowed, [8, 1, 512, 512])         where = aten.where(allowed, bias, minus_inf)
    where = aten.where(wide, bias, minus_inf)             mask = aten.expand(where, [8, 12, 512, 512])
    a = aten.add(scores, where)                           a = aten.add(scores, mask)
    b = aten.add(scores_1, where)                         b = aten.add(scores_1, mask)

The narrow one is an eighth to hold, and to read. For sizes that are known, for what several others read (one alone is
computed where it is read), and where what follows is laid out as before.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch._guards import detect_fake_mode
from torch._subclasses.fake_tensor import FakeTensorMode

from akg_dynamo.fusion.ops import OpKind, classify
from akg_dynamo.fusion.symbols import has_known_layout

aten = torch.ops.aten

_LEAST_BYTES = 1 << 20  # of less it is not worth a view


def narrow(gm: fx.GraphModule) -> None:
    """Rewrites the graph of `gm` in place; computes what it computed."""
    mode = detect_fake_mode([n.meta["val"] for n in gm.graph.nodes if isinstance(n.meta.get("val"), torch.Tensor)])
    if mode is None:
        return
    for node in list(gm.graph.nodes):
        if classify(node) is OpKind.POINTWISE and len(node.users) > 1 and _is_large(node):
            _narrow(gm.graph, node, mode)


def _is_large(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return has_known_layout(value) and value.numel() * value.element_size() >= _LEAST_BYTES


def _narrow(graph: fx.Graph, node: fx.Node, mode: FakeTensorMode) -> None:
    value = node.meta["val"]
    operands = {n: _unexpanded(n) for n in node.all_input_nodes}
    if not all(has_known_layout(n.meta.get("val")) for n in operands.values()):
        return
    with mode:
        small = _value_of(node, {n: source.meta["val"] for n, source in operands.items()})
        if small.dim() != value.dim() or 2 * small.numel() > value.numel() or small.dtype != value.dtype:
            return
        wide = small.expand(value.shape)
        if not all(_reads_either(user, node, wide) for user in node.users):
            return
    with graph.inserting_before(node):
        new = graph.node_copy(node, lambda n: operands[n])
        new.meta = {**node.meta, "val": small}
        expanded = graph.call_function(aten.expand.default, (new, list(value.shape)))
        expanded.meta["val"] = wide
    node.replace_all_uses_with(expanded)
    graph.erase_node(node)


def _unexpanded(node: fx.Node) -> fx.Node:
    """What the node shows several times, if that is all it does."""
    while node.target is aten.expand.default:
        source = node.args[0]
        assert isinstance(source, fx.Node)
        if source.meta["val"].dim() != node.meta["val"].dim():
            break  # it stands for other dims there
        node = source
    return node


def _reads_either(user: fx.Node, node: fx.Node, instead: torch.Tensor) -> bool:
    """Whether a kernel may compute the user, and its result is laid out the same when it reads `instead`."""
    kind = classify(user)
    if kind not in (OpKind.POINTWISE, OpKind.NORM, OpKind.REDUCTION, OpKind.CAST):
        return False
    before = user.meta.get("val")
    if not has_known_layout(before) or any("val" not in n.meta for n in user.all_input_nodes):
        return False
    after = _value_of(user, {n: instead if n is node else n.meta["val"] for n in user.all_input_nodes})
    return bool(after.stride() == before.stride() and after.dtype == before.dtype)


def _value_of(node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    arguments = fx.map_arg((node.args, node.kwargs), lambda n: values[n])
    return node.target(*arguments[0], **arguments[1])  # type: ignore[operator]
