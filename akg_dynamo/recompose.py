"""Puts linear layers back together, and drops detaches: fewer calls for what stays with torch.

AOTAutograd traces below the composite `linear`, which is one call in eager:

    view = aten.view(x, [32, 16])             linear = aten.linear(x, w, b)
    t = aten.t(w)
    addmm = aten.addmm(b, view, t)
    out = aten.view(addmm, [4, 8, 32])

`linear` runs the same matrix product on the same views, so that the values are the same to the bit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

aten = torch.ops.aten
_VIEWS = (aten.view.default, aten._unsafe_view.default)


def recompose(gm: fx.GraphModule) -> None:
    """Rewrites `gm` in place; computes what it computed."""
    _drop_detaches(gm.graph)
    for node in list(gm.graph.nodes):
        if node.target in (aten.mm.default, aten.addmm.default) and not node.kwargs:
            _put_linear_back(gm.graph, node)


def _drop_detaches(graph: fx.Graph) -> None:
    """Autograd's detach() of a saved value means nothing where no gradient is recorded, and hides it from kernels.

    One stays: of an input or another returned value, which must not be returned twice as the same object.
    """
    output = next(n for n in reversed(graph.nodes) if n.op == "output")
    for node in list(graph.nodes):
        if node.target is not aten.detach.default:
            continue
        source = node.args[0]
        if output in node.users and (source.op == "placeholder" or output in source.users):
            continue
        node.replace_all_uses_with(source)
        graph.erase_node(node)


def _put_linear_back(graph: fx.Graph, product: fx.Node) -> None:
    *bias, rows, transposed = product.args
    if not isinstance(transposed, fx.Node) or transposed.target is not aten.t.default:
        return
    weight = transposed.args[0]
    if bias and _dims(bias[0]) != 1:
        return
    source, result = rows, product
    (user,) = product.users if len(product.users) == 1 else (None,)
    if isinstance(rows, fx.Node) and rows.target in _VIEWS and user is not None and user.target in _VIEWS:
        wide = rows.args[0]
        if _is_rows_of(wide, user):
            source, result = wide, user
    with graph.inserting_before(result):
        linear = graph.call_function(aten.linear.default, (source, weight, *bias))
    linear.meta = dict(result.meta)
    result.replace_all_uses_with(linear)
    for old in dict.fromkeys((result, product, rows, transposed)):
        if isinstance(old, fx.Node) and not old.users and old.op == "call_function":
            graph.erase_node(old)


def _is_rows_of(wide: Any, result: fx.Node) -> bool:
    """Whether `result` has the sizes of `wide` but for the last, and `wide` is contiguous: what `linear` flattens."""
    source, made = wide.meta.get("val"), result.meta.get("val")
    if not isinstance(source, torch.Tensor) or not isinstance(made, torch.Tensor) or source.dim() < 3:
        return False
    if source.dim() != made.dim() or any(
        str(a) != str(b) for a, b in zip(source.shape[:-1], made.shape[:-1], strict=True)
    ):
        return False
    expected: Any = 1
    for size, stride in zip(reversed(source.shape), reversed(source.stride()), strict=True):
        # As text: comparing symbolic sizes would add a guard.
        if str(stride) != str(expected) and str(size) != "1":
            return False
        expected = expected * size
    return True


def _dims(value: Any) -> int | None:
    meta = value.meta.get("val") if isinstance(value, fx.Node) else None
    return meta.dim() if isinstance(meta, torch.Tensor) else None
