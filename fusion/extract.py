"""Cuts tagged subgraphs out of a graph as canonical `Subgraph`s: the same operation in every layer is one subgraph.

    %view = view(%mm, [2, 8, 64])                     in TensorSpec(float32, (2, 8, 64), …)         value 0
    %add = add(%view, %x)            becomes          in TensorSpec(float32, (2, 8, 64), …)         value 1
    %relu = relu(%add)                                aten.add.Tensor(Ref(0), Ref(1)) -> …          value 2
                                                      aten.relu.default(Ref(2)) -> …                value 3

Names, module paths and symbol numbers are gone; sizes, strides and dtypes are exactly those of the trace.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import fx

from akg_dynamo.core.types import Arg, Dim, OpNode, Ref, Subgraph, SymInt, TensorSpec, TorchConst
from akg_dynamo.fusion.ops import OpKind, base_name, classify
from akg_dynamo.fusion.partition import FusionPlan
from akg_dynamo.fusion.symbols import SymbolNames, SymbolSource, no_new_guards, symbol_sources


@dataclass(frozen=True)
class Cut:
    """One tagged subgraph, and how the graph calls it: with `inputs`, then the values of `symbols`, giving `outputs`.

    nodes: everything computed inside, in graph order; views and constants among them may be computed outside as well.
    """

    tag: int
    subgraph: Subgraph
    inputs: tuple[fx.Node, ...]
    symbols: tuple[SymbolSource, ...]
    outputs: tuple[fx.Node, ...]
    nodes: tuple[fx.Node, ...]


def extract(gm: fx.GraphModule, plan: FusionPlan) -> list[Cut]:
    """A cut per tag, in order of tag. Adds no guard to the graph's shape environment."""
    members: dict[int, list[fx.Node]] = {}
    for node in gm.graph.nodes:
        if classify(node) is OpKind.SYMBOLIC:
            continue
        tags = set(plan.copies.get(node, ()))
        if node in plan.tags:
            tags.add(plan.tags[node])
        for tag in tags:
            members.setdefault(tag, []).append(node)
    sources = symbol_sources(gm.graph)
    with _no_new_guards(gm.graph):
        return [_Cutter(tag, members[tag], plan, sources).cut() for tag in sorted(members)]


def whole(graph: fx.Graph, outputs: Sequence[fx.Node]) -> tuple[Subgraph, tuple[fx.Node, ...]]:
    """All of a functional graph as one subgraph, and the placeholders that are its inputs: every tensor there is."""
    computing = [n for n in graph.nodes if n.op == "call_function" and n.meta.get("val") is not None]  # no assertions
    nodes = [n for n in computing if classify(n) is not OpKind.SYMBOLIC]
    inputs = [n for n in graph.nodes if n.op == "placeholder" and isinstance(n.meta.get("val"), torch.Tensor)]
    with _no_new_guards(graph):
        cutter = _Cutter(0, nodes, FusionPlan(dict.fromkeys(nodes, 0), {}), {})
        return cutter.everything(inputs, outputs), tuple(inputs)


class _Cutter:
    """Numbers one subgraph's values and symbols."""

    def __init__(self, tag: int, nodes: list[fx.Node], plan: FusionPlan, sources: dict[object, SymbolSource]) -> None:
        self.tag, self.nodes, self.plan, self.sources = tag, nodes, plan, sources
        self.inside = set(nodes)
        self.names = SymbolNames()
        self.number: dict[fx.Node, int] = {}

    def cut(self) -> Cut:
        inputs: list[fx.Node] = []
        tensor_nodes = self.nodes
        for node in tensor_nodes:
            if classify(node) is OpKind.CREATION:
                continue  # written as a constant: what it was like is of no interest
            for producer in node.all_input_nodes:
                if producer in self.inside or classify_symbolic(producer) or producer in self.number:
                    continue
                self.number[producer] = len(inputs)
                inputs.append(producer)
        specs = tuple(self.spec(n.meta["val"]) for n in inputs)
        ops = []
        for i, node in enumerate(tensor_nodes):
            ops.append(self.op(node))
            self.number[node] = len(inputs) + i
        outputs = [n for n in tensor_nodes if is_output(n, self.tag, self.plan)]
        subgraph = Subgraph(specs, self.names.symbols(), tuple(ops), tuple(self.number[n] for n in outputs))
        symbols = tuple(self.sources[s] for s in self.names.names)
        return Cut(self.tag, subgraph, tuple(inputs), symbols, tuple(outputs), tuple(self.nodes))

    def everything(self, inputs: Sequence[fx.Node], outputs: Sequence[fx.Node]) -> Subgraph:
        """One subgraph of these inputs, whether they are used or not, and these outputs, in this order."""
        specs = tuple(self.spec(n.meta["val"]) for n in inputs)
        self.number = {n: i for i, n in enumerate(inputs)}
        ops = []
        for i, node in enumerate(self.nodes):
            ops.append(self.op(node))
            self.number[node] = len(inputs) + i
        return Subgraph(specs, self.names.symbols(), tuple(ops), tuple(self.number[n] for n in outputs))

    def spec(self, value: object) -> TensorSpec:
        assert isinstance(value, torch.Tensor)
        return TensorSpec(
            str(value.dtype).removeprefix("torch."),
            tuple(self.names.dim(s) for s in value.shape),
            tuple(self.names.dim(s) for s in value.stride()),
            value.device.type,
        )

    def out(self, value: object) -> TensorSpec | tuple[TensorSpec | None, ...]:
        if isinstance(value, tuple | list):
            return tuple(None if v is None else self.spec(v) for v in value)
        return self.spec(value)

    def op(self, node: fx.Node) -> OpNode:
        kind = classify(node)
        if kind is OpKind.GETITEM:
            return OpNode("getitem", (self.arg(node.args[0]), self.arg(node.args[1])), (), self.out(node.meta["val"]))
        if kind is OpKind.CREATION and base_name(node.target) != "arange":
            return self.constant(node)
        args = tuple(self.arg(a) for a in node.args)
        kwargs = tuple((k, self.arg(v)) for k, v in sorted(node.kwargs.items()))
        return OpNode(str(node.target), args, kwargs, self.out(node.meta["val"]))

    def constant(self, node: fx.Node) -> OpNode:
        """Every constant is a `full`: what it was the like of need not be read."""
        name, spec = base_name(node.target), self.spec(node.meta["val"])
        value: Arg
        if "full" in name:
            value = self.arg(node.args[2] if name == "new_full" else node.args[1])
        elif name == "scalar_tensor":
            value = self.arg(node.args[0])
        else:
            value = 1 if "ones" in name else 0
        size = tuple(d if isinstance(d, int) else SymInt(d) for d in spec.shape)
        kwargs: tuple[tuple[str, Arg], ...] = (("dtype", TorchConst(f"torch.{spec.dtype}")),)
        if spec.device != "cpu":
            kwargs = (("device", TorchConst(f"device({spec.device!r})")), *kwargs)
        return OpNode("aten.full.default", (size, value), kwargs, spec)

    def arg(self, a: object) -> Arg:
        if isinstance(a, fx.Node):
            if classify_symbolic(a):
                return self.size(a.meta["val"])
            return Ref(self.number[a])
        if isinstance(a, torch.SymInt):
            return self.size(a)
        if isinstance(a, tuple | list):
            return tuple(self.arg(x) for x in a)
        if isinstance(a, torch.dtype | torch.memory_format | torch.layout):
            return TorchConst(str(a))
        if isinstance(a, torch.device):
            return TorchConst(f"device({a.type!r})")  # which one of several is the inputs' business
        if a is None or isinstance(a, bool | int | float | complex | str):
            return a
        raise AssertionError(f"an argument of type {type(a).__name__} in a subgraph")

    def size(self, value: object) -> Arg:
        dim: Dim = self.names.dim(value)
        return dim if isinstance(dim, int) else SymInt(dim)


def classify_symbolic(node: fx.Node) -> bool:
    """Whether a node is an integer, not a tensor."""
    return isinstance(node.meta.get("val"), torch.SymInt | int)


def is_output(node: fx.Node, tag: int, plan: FusionPlan) -> bool:
    """Whether a value computed in subgraph `tag` is read outside it."""
    if plan.tags.get(node) != tag or node in plan.copies or not isinstance(node.meta.get("val"), torch.Tensor):
        return False
    return any(user not in plan.tags or plan.tags[user] != tag for user in node.users if not _unread_size(user, plan))


def _unread_size(node: fx.Node, plan: FusionPlan) -> bool:
    """A size that only kernels read: they get it from the placeholders."""
    return node in plan.tags and classify(node) is OpKind.SYMBOLIC


def _no_new_guards(graph: fx.Graph) -> contextlib.AbstractContextManager[None]:
    for node in graph.nodes:
        value = node.meta.get("val")
        sizes = (value,) if isinstance(value, torch.SymInt) else value.shape if isinstance(value, torch.Tensor) else ()
        for size in sizes:
            if isinstance(size, torch.SymInt):
                return no_new_guards(size.node.shape_env)
    return no_new_guards(None)
