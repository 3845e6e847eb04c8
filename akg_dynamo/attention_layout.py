"""Whether attention may run in another kernel, as far as layouts go.

Kernels lay their results out differently, and attention without a mask often runs in another one. The model was traced
with the one: what reads the result must be able to read the other's, and return what it returned.

    y = sdpa(q, k, v, mask)        (b, h, s, e), contiguous          y = sdpa(q, k, v)       (b, s, h, e) in memory
    x = y.transpose(1, 2)                                            x = y.transpose(1, 2)
    z = x.reshape(b, s, h * e)     a copy                            z = x.reshape(…)        a view, laid out the same
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch
from torch import fx
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from akg_dynamo.fusion.symbols import expression
from akg_dynamo.writes import memory

_METHODS = frozenset({"contiguous", "flatten", "permute", "reshape", "transpose", "view"})
_FUNCTIONS = frozenset({torch.flatten, torch.permute, torch.reshape, torch.transpose})


class Layouts:
    """The layouts of a graph's attention. written: the memory that an operator may write to."""

    def __init__(self, graph: fx.Graph, written: Set[int]) -> None:
        self._graph = graph
        self._written = written
        self._traced: dict[tuple[Any, ...], tuple[Any, Any]] = {}  # layers are alike

    def allow(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether the graph stays what it is, but for kernels, when the node is called with these arguments instead."""
        traced = node.meta.get("example_value")
        if type(traced) is not FakeTensor or not _was_traced(*node.all_input_nodes):
            return False
        with _tracing(traced.fake_mode):
            again, instead = self._trace(node, args, kwargs)
            if not _alike(again, traced):
                return False  # it was traced under a setting that is not the graph's own, as an autocast within
            return _alike(instead, traced) or self._converges(node, instead)

    def _trace(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """What tracing sees with the node's own arguments, and with the others."""
        operands = node.all_input_nodes
        places = {n: f"operand {i}" for i, n in enumerate(operands)}
        calls = str(fx.map_arg((node.args, node.kwargs, args, kwargs), places.__getitem__))
        key = (calls, *(_layout(n.meta["example_value"]) for n in operands))
        if key not in self._traced:
            self._traced[key] = _call(node, node.args, node.kwargs), _call(node, args, kwargs)
        return self._traced[key]

    def _converges(self, node: fx.Node, value: Any) -> bool:
        """Whether all that reads the result is laid out as before, after a few operators that are about layouts alone.

        Where one of them copied, it may now be a view: so none of it may be written to, nor returned in two places.
        """
        changed = {node: value}
        touched = {node}
        for user in self._graph.nodes:
            if changed.keys().isdisjoint(user.all_input_nodes):
                continue
            if user.target not in (_METHODS if user.op == "call_method" else _FUNCTIONS):
                return False
            if not _was_traced(user, *user.all_input_nodes):
                return False
            try:
                result = _call(user, user.args, user.kwargs, changed)
            except (RuntimeError, ValueError):
                return False  # it cannot be viewed so
            touched.add(user)
            if not _alike(result, user.meta["example_value"]):
                changed[user] = result
        memories = set().union(*map(memory, touched))
        (output,) = self._graph.find_nodes(op="output")
        returned = [n for n in output.all_input_nodes if not memories.isdisjoint(memory(n))]
        return len(returned) < 2 and memories.isdisjoint(self._written)


def _call(node: fx.Node, args: Any, kwargs: Any, values: Mapping[fx.Node, Any] = MappingProxyType({})) -> Any:
    """The node's result as tracing would see it."""

    def value(n: fx.Node) -> Any:
        return values[n] if n in values else n.meta["example_value"]

    args, kwargs = fx.map_arg((args, kwargs), value)
    if callable(node.target):
        return node.target(*args, **kwargs)
    return getattr(args[0], node.target)(*args[1:], **kwargs)


def _alike(a: Any, b: Any) -> bool:
    return type(a) is FakeTensor and type(b) is FakeTensor and _layout(a) == _layout(b)


def _layout(x: Any) -> tuple[Any, ...]:
    """Of a tensor; of a symbolic number, the number."""
    if not isinstance(x, torch.Tensor):
        return (x.node.expr,)
    return x.dtype, x.device, x.dim(), *map(expression, (*x.shape, *x.stride()))


def _was_traced(*nodes: fx.Node) -> bool:
    values = (n.meta.get("example_value") for n in nodes)
    return all(isinstance(v, (torch.Tensor, torch.SymInt, torch.SymFloat)) for v in values)


@contextmanager
def _tracing(mode: FakeTensorMode) -> Iterator[None]:
    """As Dynamo traces, but no guard is added: tracing what is left of the graph will add those that are needed."""
    with mode, enable_python_dispatcher():
        if mode.shape_env is None:
            yield
        else:
            with mode.shape_env.suppress_guards():
                yield
