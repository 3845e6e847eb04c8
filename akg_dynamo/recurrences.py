"""Loops as autograd writes them, in the form in which one kernel computes them.

The backward pass of a loop begins where nothing has been carried yet, and leaves out what that would add:

    grad_1 = aten.mul(g_1, c_1)                          add_1 = aten.add(zeros, aten.mul(g_1, c_1))
    mul = aten.mul(grad_1, decay_1)                      mul = aten.mul(add_1, decay_1)
    grad_0 = aten.add(mul, aten.mul(g_0, c_0))           add_0 = aten.add(mul, aten.mul(g_0, c_0))
    stack = aten.stack([grad_0, grad_1])                 stack = aten.stack([add_0, add_1])

And it has operators that are others where they stand: a matrix product of one term is a multiplication, and the
gradient of the only slice of a tensor is a view. Where it reads slices that the forward pass has made, those would be
saved one by one: what they are slices of is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import fx
from torch._guards import detect_fake_mode

from akg_dynamo.fusion.ops import OpKind, base_name, classify
from akg_dynamo.fusion.symbols import has_known_layout
from akg_dynamo.fusion.unrolled import LEAST_TRIPS, graph_loops

aten = torch.ops.aten


def plain_operators(graph: fx.Graph) -> None:
    """Rewrites `graph` in place: products of one term, and gradients of only slices."""
    for node in graph.nodes:
        args: tuple[Any, ...] = node.args
        if node.target is aten.bmm.default and _is_one(args[0].meta["val"].shape[-1]):
            node.target = aten.mul.Tensor
        elif node.target is aten.select_backward.default and _is_one(args[1][args[2]]):
            _as_view(node)


def _as_view(node: fx.Node) -> None:
    """Makes the gradient of an only slice a view of it, where nothing but views is laid out otherwise for that."""
    grad, _, dim, _ = cast("tuple[fx.Node, Any, int, int]", node.args)
    mode = detect_fake_mode([node.meta["val"]])
    if mode is None or not has_known_layout(node.meta["val"]):
        return
    with mode:
        values = {node: grad.meta["val"].unsqueeze(dim)}
        if all(_stays(reader, values) for reader in node.users):
            node.target, node.args = aten.unsqueeze.default, (grad, dim)
            for changed, value in values.items():
                changed.meta["val"] = value


def _stays(reader: fx.Node, values: dict[fx.Node, torch.Tensor]) -> bool:
    """Whether what it computes of these values, views aside, is laid out as before. Adds those of views."""
    kind, before = classify(reader), reader.meta.get("val")
    if kind not in (OpKind.VIEW, OpKind.POINTWISE, OpKind.CAST, OpKind.MATMUL) or not isinstance(before, torch.Tensor):
        return False
    args, kwargs = fx.map_arg((reader.args, reader.kwargs), lambda n: values[n] if n in values else n.meta["val"])
    if base_name(reader.target) == "view" and cast(Any, args)[0].shape != before.shape:
        return False  # it may not be possible of another layout
    after = cast(Any, reader.target)(*args, **kwargs)
    if kind is not OpKind.VIEW:
        return has_known_layout(before) and after.stride() == before.stride()
    values[reader] = after
    return all(_stays(user, values) for user in reader.users)


def _is_one(size: object) -> bool:
    return isinstance(size, int) and size == 1


def complete_first_trips(graph: fx.Graph) -> None:
    """Rewrites `graph` in place: loops whose first trip adds nothing to what is carried add zeros there."""
    made: list[tuple[fx.Node, fx.Node]] = []
    for node in list(graph.nodes):
        operands = cast("Sequence[fx.Node]", node.args[0]) if node.target is aten.stack.default else ()
        if len(operands) >= LEAST_TRIPS:
            for first, second in (operands[:2], operands[:-3:-1]):
                added = _added_to_nothing(graph, first, second)
                if added is not None:
                    made.append((first, added))
    inside = {node for loop in graph_loops(graph) for node in loop.inside} if made else set()
    for first, added in made:
        if added not in inside:
            (zeros,) = (n for n in added.all_input_nodes if n is not first)
            added.replace_all_uses_with(first)
            graph.erase_node(added)
            graph.erase_node(zeros)


def _added_to_nothing(graph: fx.Graph, first: fx.Node, second: fx.Node) -> fx.Node | None:
    """`first` plus zeros, where `second` is the like of it plus something that follows from it."""
    if second.target is not aten.add.Tensor or second.kwargs or first.target is aten.add.Tensor:
        return None
    value, other = first.meta["val"], second.meta["val"]
    terms = [n for n in second.args if isinstance(n, fx.Node)]
    alike = [k for k, n in enumerate(terms) if n.target is first.target and first not in n.all_input_nodes]
    mode = detect_fake_mode([value])
    if len(alike) != 1 or mode is None or not has_known_layout(value) or not has_known_layout(other):
        return None
    if other.shape != value.shape or other.stride() != value.stride() or other.dtype is not value.dtype:
        return None
    readers = list(first.users)
    with graph.inserting_after(first), mode:
        zeros = graph.call_function(
            aten.full.default, (list(value.shape), 0.0), {"dtype": value.dtype, "device": value.device}
        )
        zeros.meta["val"] = torch.full(value.shape, 0.0, dtype=value.dtype, device=value.device)
    with graph.inserting_after(zeros), mode:
        added = graph.call_function(aten.add.Tensor, (zeros, first) if alike == [1] else (first, zeros))
        added.meta["val"] = torch.add(zeros.meta["val"], value)
    for reader in readers:
        reader.replace_input_with(first, added)
    return added


# --------------------------------------------------------------------------------------------------------------------
# What is saved in slices


def save_whole(forward: fx.Graph, backward: fx.Graph, results: int) -> None:
    """Rewrites both graphs in place: where every slice of a value is saved, the value is.

    results: how many of the forward graph's outputs are not saved values.
    """
    output = next(n for n in reversed(forward.nodes) if n.op == "output")
    outputs = list(output.args[0])
    descriptions = list(output.meta.get("desc", [None] * len(outputs)))
    reads = {n.name: n for n in backward.nodes if n.op == "placeholder"}
    for (source, dim), slices in _saved_slices(outputs[results:], reads).items():
        if len(slices) < LEAST_TRIPS or slices.keys() != set(range(source.meta["val"].shape[dim])):
            continue
        saved = sorted((outputs.index(views[-1], results) for views in slices.values()), reverse=True)
        known = source in outputs[results:] and source.name in reads
        first = reads[outputs[saved[-1]].name]
        with backward.inserting_before(first):
            whole = reads[source.name] if known else backward.placeholder(source.name)
        whole.meta = dict(source.meta)
        with backward.inserting_before(next(n for n in backward.nodes if n.op != "placeholder")):
            for views in slices.values():
                _remake(backward, views, whole, reads[views[-1].name])
        if not known:
            outputs[saved.pop()] = source
        for k in saved:
            del outputs[k], descriptions[k]
    output.args = (tuple(outputs),)
    if "desc" in output.meta:
        output.meta["desc"] = descriptions


def _saved_slices(
    saved: Sequence[Any], reads: Mapping[str, fx.Node]
) -> dict[tuple[fx.Node, int], dict[int, list[fx.Node]]]:
    """Of what is saved: the slices of one tensor along one dim, by index, each as the views from the slice to it."""
    found: dict[tuple[fx.Node, int], dict[int, list[fx.Node]]] = {}
    for node in saved:
        views = _views_of_slice(node) if isinstance(node, fx.Node) and node.name in reads else []
        if views:
            source, dim, index = cast("tuple[fx.Node, int, int]", views[0].args)
            found.setdefault((source, dim), {})[index] = views
    return found


def _views_of_slice(node: fx.Node) -> list[fx.Node]:
    """The views that lead from a slice of what the graph computes to this node, the slice first; empty if none do."""
    views: list[fx.Node] = []
    while node.op == "call_function" and classify(node) is OpKind.VIEW and len(node.all_input_nodes) == 1:
        views.insert(0, node)
        if not has_known_layout(node.meta.get("val")):
            return []
        (node,) = node.all_input_nodes
        if views[0].target is aten.select.int:
            return views if node.op == "call_function" and has_known_layout(node.meta["val"]) else []
    return []


def _remake(graph: fx.Graph, views: Sequence[fx.Node], source: fx.Node, read: fx.Node) -> None:
    """Replaces what `graph` reads by views of its own."""
    place = source
    for view in views:
        place = graph.node_copy(view, lambda _, of=place: of)  # type: ignore[misc]
    read.replace_all_uses_with(place)
    graph.erase_node(read)
