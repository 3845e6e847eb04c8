"""Matrix products of slices that are stacked, as one batched product.

    mm = aten.bmm(a_0, aten.select(x, 0, 0))
    mm_1 = aten.bmm(a_1, aten.select(x, 0, 1))           mm = aten.bmm(a, x)
    stack = aten.stack([mm, mm_1])

What leads from the slices to the stack is one expression for all of them: its `torch.vmap` is traced in its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import fx
from torch._guards import detect_fake_mode
from torch.fx.experimental.proxy_tensor import make_fx

from akg_dynamo.fusion.ops import OpKind, base_name, classify
from akg_dynamo.fusion.symbols import has_known_layout

aten = torch.ops.aten

_LEAST = 4


def batch_products(graph: fx.Graph) -> None:
    """Rewrites `graph` in place: every stack of matrix products of slices of tensors."""
    for node in list(graph.nodes):
        if node.target is not aten.stack.default or not has_known_layout(node.meta["val"]):
            continue
        if len(node.args[0]) < _LEAST:
            continue
        expression = _Expression(len(node.args[0]))
        if expression.leads_to(list(node.args[0])) and expression.products:
            _replace(graph, node, expression)


class _Expression:
    """What each operand of a stack is computed by.

    rows: each operation, in all operands, in the order in which they are computed. slices: what the operands have
    slices of, as (tensor, dim). shared: what they all read.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.rows: list[tuple[fx.Node, ...]] = []
        self.slices: dict[fx.Node, tuple[fx.Node, int]] = {}  # by the first slice
        self.shared: list[fx.Node] = []
        self.products = 0
        self._known: set[tuple[fx.Node, ...]] = set()

    def leads_to(self, operands: Sequence[Any]) -> bool:
        """Whether the operands are values of one expression."""
        column = tuple(operands)
        if column in self._known:
            return True
        if not all(isinstance(n, fx.Node) and n.op == column[0].op for n in column):
            return False
        self._known.add(column)
        first = column[0]
        if all(n is first for n in column):
            self.shared.append(first)
            return True
        if len(set(column)) != self.count or first.op != "call_function":
            return False
        if first.target is aten.select.int and self._are_slices(column):
            return True
        return self._is_one_operation(column) and self._add(column)

    def _are_slices(self, column: Sequence[fx.Node]) -> bool:
        source, dim, _ = column[0].args
        assert isinstance(source, fx.Node)
        assert isinstance(dim, int)
        if source.meta["val"].shape[dim] != self.count:
            return False
        if any(n.target is not aten.select.int or n.args != (source, dim, i) for i, n in enumerate(column)):
            return False
        self.slices[column[0]] = source, dim
        return True

    def _is_one_operation(self, column: Sequence[fx.Node]) -> bool:
        first = column[0]
        product = base_name(first.target) in ("mm", "bmm")
        if not product and classify(first) not in (OpKind.VIEW, OpKind.CAST, OpKind.POINTWISE):
            return False
        if product and any(len(n.users) != 1 for n in column):
            return False  # it would be computed twice
        self.products += product
        return all(n.target is first.target and _form(n) == _form(first) for n in column)

    def _add(self, column: tuple[fx.Node, ...]) -> bool:
        operands = zip(*(n.all_input_nodes for n in column), strict=True)
        if not all(map(self.leads_to, operands)):
            return False
        self.rows.append(column)
        return True


def _form(node: fx.Node) -> tuple[object, ...]:
    """A node but for what it reads, and what comes of it."""
    number = {n: f"operand {i}" for i, n in enumerate(node.all_input_nodes)}
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: number[n])
    value = node.meta["val"]
    return args, tuple(kwargs.items()), value.dtype, tuple(value.shape), value.stride()


def _replace(graph: fx.Graph, stack: fx.Node, expression: _Expression) -> None:
    before = stack.meta["val"]
    mode = detect_fake_mode([before])
    if mode is None:
        return
    dim = cast(int, stack.args[1]) if len(stack.args) > 1 else 0
    inputs = [*expression.shared, *(source for source, _ in expression.slices.values())]
    dims = (*(None for _ in expression.shared), *(d for _, d in expression.slices.values()))
    result = expression.rows[-1][0]

    def one(*tensors: torch.Tensor) -> torch.Tensor:
        values = dict(zip((*expression.shared, *expression.slices), tensors, strict=True))
        for row in expression.rows:
            args, kwargs = fx.map_arg((row[0].args, row[0].kwargs), lambda n: values[n])
            values[row[0]] = cast(Any, row[0].target)(*args, **kwargs)
        return values[result]

    def every(*tensors: torch.Tensor) -> torch.Tensor:
        found = torch.vmap(one, in_dims=dims, out_dims=dim)(*tensors)
        return found if found.stride() == before.stride() else found.clone(memory_format=torch.contiguous_format)

    with mode:
        traced = make_fx(every)(*(n.meta["val"] for n in inputs)).graph
    places = iter(inputs)
    new: dict[fx.Node, fx.Node] = {}
    with graph.inserting_before(stack):
        for node in traced.nodes:
            if node.op == "placeholder":
                new[node] = next(places)
            elif node.op == "call_function":
                new[node] = graph.node_copy(node, lambda n: new[n])
    instead = new[cast(fx.Node, next(n for n in traced.nodes if n.op == "output").args[0])]
    value = instead.meta["val"]
    if value.stride() != before.stride() or value.dtype is not before.dtype:
        return  # what was made for it is read by nobody, and falls away
    stack.replace_all_uses_with(instead)
    for row in ((stack,), *reversed(expression.rows)):
        for node in row:
            if not node.users:
                graph.erase_node(node)
