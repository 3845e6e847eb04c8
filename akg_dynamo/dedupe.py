"""Equal values are computed once: the same operator on the same operands, wherever the model repeats it.

    mask = aten.where(allowed, zero, minus_inf)         mask = aten.where(allowed, zero, minus_inf)
    a = aten.add(scores, mask)                          a = aten.add(scores, mask)
    mask_1 = aten.where(allowed, zero, minus_inf)       b = aten.add(scores_1, mask)
    b = aten.add(scores_1, mask_1)

A model whose layers each prepare the same mask would otherwise keep one for each from the first layer on, since a
kernel that reads the same inputs makes them all. (Training graphs come deduplicated from AOTAutograd's partitioner.)
"""

from __future__ import annotations

import operator
from collections.abc import Hashable
from typing import Any

import torch
from torch import fx
from torch.multiprocessing.reductions import StorageWeakRef

from akg_dynamo.schedule import is_kept, is_mutating, is_ordered


def dedupe(gm: fx.GraphModule) -> None:
    """Rewrites `gm` in place; computes what it computed, and returns no tensor twice that was two."""
    returned = storages_returned(gm.graph)
    seen: dict[Hashable, fx.Node] = {}
    for node in list(gm.graph.nodes):
        if node.op != "call_function":
            continue
        if is_mutating(node):
            seen.clear()  # what was read before a write is not what is read after it
            continue
        key = _key(node)
        if key is None:
            continue
        first = seen.setdefault(key, node)
        if first is not node and storage_of(node) not in returned:
            node.replace_all_uses_with(first)
            gm.graph.erase_node(node)


def _key(node: fx.Node) -> Hashable | None:
    """What a node computes, the same for nodes that compute the same; None if it must not be left out."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        own = target.namespace in ("aten", "prims") and not target._schema.name.startswith("aten::empty")
        depends = torch.Tag.data_dependent_output in target.tags or torch.Tag.dynamic_output_shape in target.tags
        if not own or depends or is_ordered(node) or is_kept(node):
            return None
    elif target is not operator.getitem:
        return None
    operands = _operand((node.args, node.kwargs))
    return None if operands is None else (target, operands)


def _operand(value: Any) -> Hashable | None:
    """An argument as something to compare: 1 is not True, nor 0.0 the same as -0.0."""
    if isinstance(value, fx.Node):
        return value
    if isinstance(value, tuple | list):
        parts = tuple(_operand(v) for v in value)
        return None if None in parts else ("list", parts)
    if isinstance(value, dict):
        return _operand([[k, v] for k, v in sorted(value.items())])
    if value is None or isinstance(value, bool | int | float | complex | str):
        return type(value).__name__, repr(value)
    if isinstance(value, torch.dtype | torch.device | torch.memory_format | torch.layout):
        return type(value).__name__, str(value)
    return None


def storage_of(node: fx.Node) -> StorageWeakRef | None:
    """What tells whether two values of a traced graph share memory."""
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor):
        return None
    return StorageWeakRef(value.untyped_storage())  # type: ignore[no-untyped-call]  # torch's own


def storages_returned(graph: fx.Graph) -> set[StorageWeakRef | None]:
    """Those of what a graph returns."""
    output = next(n for n in reversed(graph.nodes) if n.op == "output")
    return {storage_of(n) for n in output.all_input_nodes} - {None}
