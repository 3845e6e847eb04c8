"""Gradients as cuDNN's attention is told they lie, whatever ran before.

torch keeps the plans that cuDNN makes for the backward pass, and looks them up by the layouts of query, key, value and
mask. A plan also depends on how the result and its gradient lie, which the key does not say: from the second layout on,
all gradients are silently wrong, in eager, too (torch 2.11 on an H200; `tests/gpu/test_attention_cuda.py`):

    y = sdpa(q, k, v);                   y.backward(g)      right, and makes the plan
    y = sdpa(q, k, v).transpose(1, 2);   y.backward(g)      reads g as if it lay as the first one

The result lies as the query does. So it is enough that its gradient lies as the result, and that nobody else's plan is
found. A probability of -0.0 drops nothing, and the key is compared by its bytes:

    d = cudnn_backward(g, q, k, v, out, …, 0.0, …)          g1 = permute(clone(permute(g)))
                                                            d = cudnn_backward(g1, q, k, v, out, …, -0.0, …)
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import fx
from torch._guards import detect_fake_mode

from akg_dynamo.fusion.symbols import expression

aten = torch.ops.aten
_BACKWARD = (aten._scaled_dot_product_cudnn_attention_backward.default, aten._cudnn_attention_backward.default)
_PLACES = {a.name: i for i, a in enumerate(_BACKWARD[0]._schema.arguments)}
_GRADIENT, _RESULT, _DROPOUT = (_PLACES[name] for name in ("grad_out", "out", "dropout_p"))


def lay_out_gradients(gm: fx.GraphModule) -> int:
    """Rewrites the graph of `gm` in place; computes what it computed. Says how many operators were changed."""
    found = [n for n in gm.graph.nodes if n.target in _BACKWARD and n.args[_DROPOUT] == 0.0]
    changed = 0
    for node in found:
        gradient, result = node.args[_GRADIENT], node.args[_RESULT]
        order = _order(result.meta["val"])
        if order is None:
            continue
        if _strides(gradient.meta["val"]) != _strides(result.meta["val"]):
            node.update_arg(_GRADIENT, _copy(gm.graph, node, gradient, order))
        node.update_arg(_DROPOUT, -0.0)
        changed += 1
    return changed


def _order(value: torch.Tensor) -> tuple[int, ...] | None:
    """The dims, outermost first, of a tensor that lies without gaps; None if it does not."""
    strides = _strides(value)
    for order in itertools.permutations(range(value.dim())):
        dense, step = dict[int, Any](), 1
        for dim in reversed(order):
            size = expression(value.shape[dim])
            if size != 1:
                dense[dim] = step
            step *= size
        if dense == strides:
            return order
    return None


def _strides(value: torch.Tensor) -> dict[int, Any]:
    """Of the dims in which there is a step."""
    layout = enumerate(zip(value.shape, value.stride(), strict=True))
    return {dim: expression(stride) for dim, (size, stride) in layout if expression(size) != 1}


def _copy(graph: fx.Graph, reader: fx.Node, node: fx.Node, order: tuple[int, ...]) -> fx.Node:
    """A copy of the node's value, before its reader, with its dims in this order in memory."""
    inverse = [order.index(dim) for dim in range(len(order))]
    mode = detect_fake_mode([node.meta["val"]])
    assert mode is not None
    turned = inverse != sorted(inverse)
    with graph.inserting_before(reader), mode:
        if turned:
            node = _call(graph, aten.permute.default, node, list(order))
        node = _call(graph, aten.clone.default, node, memory_format=torch.contiguous_format)
        return _call(graph, aten.permute.default, node, inverse) if turned else node


def _call(graph: fx.Graph, target: Any, node: fx.Node, *args: Any, **kwargs: Any) -> fx.Node:
    made = graph.call_function(target, (node, *args), kwargs)
    made.meta["val"] = target(node.meta["val"], *args, **kwargs)
    return made
