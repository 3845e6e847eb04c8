"""Puts back the mutation that functionalisation took out.

A KV-cache update reaches us as a copy of the whole cache and a trailing ``copy_``:

    before                                              after
    new = aten.index_copy(cache, 2, pos, k)             new = cache.index_copy_(2, pos, k)
    out = attention(q, new)                             out = attention(q, new)
    cache.copy_(new)

    piece = aten.slice(cache, 2, p, p + 1)              cache.narrow(2, p, 1).copy_(k)
    filled = aten.copy(piece, k)
    new = aten.slice_scatter(cache, filled, 2, p, p+1)
    cache.copy_(new)

It runs on the scheduled steps, where kernels are opaque calls that read inputs and return fresh tensors. An update is
done in place when its base is a graph input that is written back at the end anyway, or a tensor of the graph's own, and
nothing that shares the base's storage is read afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from akg_dynamo.schedule import Region, Step, is_mutating, is_view, step_inputs

aten = torch.ops.aten

# Each writes its base only where the in-place method of the same arguments does; "aten::x_" is an overload, no method.
_METHODS: dict[Any, str] = {
    aten.index_put.default: "aten::index_put_",  # Tensor.index_put_ takes no None among its indices
    aten.index_copy.default: "index_copy_",
    aten.index_add.default: "index_add_",
    aten.index_fill.int_Scalar: "index_fill_",
    aten.index_fill.int_Tensor: "index_fill_",
    aten.scatter.src: "scatter_",
    aten.scatter.value: "scatter_",
    aten.scatter_add.default: "scatter_add_",
    aten.masked_fill.Scalar: "masked_fill_",
    aten.masked_fill.Tensor: "masked_fill_",
}
# Elementwise: in place only onto an input, which the trailing copy_ shows to be what the program said.
_POINTWISE: dict[Any, str] = {
    aten.add.Tensor: "add_",
    aten.sub.Tensor: "sub_",
    aten.mul.Tensor: "mul_",
    aten.div.Tensor: "div_",
    aten.lerp.Scalar: "lerp_",
    aten.lerp.Tensor: "lerp_",
    aten.addcmul.default: "addcmul_",
    aten.addcdiv.default: "addcdiv_",
}
# Scatter of a region, and the view that is that region.
_REGIONS: dict[Any, Any] = {
    aten.slice_scatter.default: aten.slice.Tensor,
    aten.select_scatter.default: aten.select.int,
}


@dataclass(frozen=True)
class Write:
    """``base.path….method(arguments)``: what replaces a functional update.

    path: views applied to the base, each as (overload, its arguments after the tensor).
    """

    base: fx.Node
    path: tuple[tuple[Any, tuple[Any, ...]], ...]
    method: str
    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...] = ()

    @property
    def inputs(self) -> list[fx.Node]:
        """What it reads, the base included."""
        found: list[fx.Node] = []
        fx.map_arg((self.base, [a for _, a in self.path], self.args, dict(self.kwargs)), found.append)
        return found


@dataclass(frozen=True)
class Reinplaced:
    """The steps left, and for some of them the write that stands for the node's own call."""

    steps: list[Step]
    writes: dict[fx.Node, Write] = field(default_factory=dict)


def updates(graph: fx.Graph) -> frozenset[fx.Node]:
    """Nodes that update an input of the graph: left out of kernels, since in place they cost next to nothing."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if node.target is not aten.copy_.default or not _is_placeholder(node.args[0]):
            continue
        source = node.args[1]
        while isinstance(source, fx.Node) and (source.target in _METHODS or source.target in _REGIONS):
            found.add(source)
            inner = source.args[1] if source.target in _REGIONS else None
            while isinstance(inner, fx.Node) and (
                inner.target in _REGIONS or inner.target in _METHODS or inner.target is aten.copy.default
            ):
                found.add(inner)
                inner = inner.args[1] if inner.target in _REGIONS else None
            source = source.args[0]
    return frozenset(found)


def _is_placeholder(value: Any) -> bool:
    return isinstance(value, fx.Node) and value.op == "placeholder"


def reinplace(steps: Sequence[Step], output: fx.Node) -> Reinplaced:
    """`steps` with every update that may be in place made so, and the copies and views it made useless removed."""
    return _Pass(steps, output).run()


class _Pass:
    def __init__(self, steps: Sequence[Step], output: fx.Node) -> None:
        self.steps = list(steps)
        self.output = output
        self.writes: dict[fx.Node, Write] = {}
        self.dropped: set[fx.Node] = set()
        self.at = {s: i for i, s in enumerate(self.steps)}
        self.in_region = {n for s in self.steps if isinstance(s, Region) for n in s.outputs}
        self.root: dict[fx.Node, fx.Node] = {}
        self.readers: dict[fx.Node, list[Step]] = {}
        for step in self.steps:
            for node in step_inputs(step):
                self.readers.setdefault(node, []).append(step)
        for node in output.all_input_nodes:
            self.readers.setdefault(node, []).append(output)
        self.at[output] = len(self.steps)
        self.family: dict[fx.Node, set[fx.Node]] = {}
        for step in self.steps:
            if not isinstance(step, Region) and is_view(step) and step.all_input_nodes:
                self._join(step, self._root(step.all_input_nodes[0]))
        self.written_back = {
            s.args[0]: s
            for s in self.steps
            if not isinstance(s, Region) and s.target is aten.copy_.default and _is_placeholder(s.args[0])
        }

    def run(self) -> Reinplaced:
        for step in self.steps:
            if isinstance(step, Region) or step in self.dropped:
                continue
            if step.target in _METHODS or step.target in _POINTWISE or step.target in _REGIONS:
                self._try(step)
        for target, copy in self.written_back.items():
            # One that is returned stays: a tensor copied onto itself costs nothing.
            if isinstance(target, fx.Node) and self._is_same_value(copy.args[1], target) and copy not in self.readers:
                self.dropped.add(copy)
        self._drop_unread()
        return Reinplaced([s for s in self.steps if s not in self.dropped], self.writes)

    # -- storage ------------------------------------------------------------------------------------------------

    def _root(self, node: fx.Node) -> fx.Node:
        return self.root.get(node, node)

    def _join(self, node: fx.Node, root: fx.Node) -> None:
        """`node` and all that shares its storage now share `root`'s."""
        members = self.family.pop(node, {node})
        for member in members:
            self.root[member] = root
        self.family.setdefault(root, {root}).update(members)

    def _read_after(self, root: fx.Node, position: int, ignored: set[Step]) -> bool:
        """Whether anything that shares the storage is read behind `position`."""
        return any(
            self.at[reader] > position and reader not in ignored and reader not in self.dropped
            for member in self.family.get(root, {root})
            for reader in self.readers.get(member, ())
        )

    def _owned(self, root: fx.Node) -> bool:
        """Whether the graph may write there: its own fresh tensor, or an input that is written back at the end."""
        if root.op == "placeholder":
            return root in self.written_back
        if root in self.in_region:
            return True
        value = root.meta.get("val")
        target = root.target
        return (
            root.op == "call_function"
            and isinstance(value, torch.Tensor)
            and isinstance(target, torch._ops.OpOverload)
            and target.namespace == "aten"
            and not is_mutating(root)
            and not is_view(root)
        )

    def _is_same_value(self, node: Any, target: fx.Node) -> bool:
        """Whether `node` is `target` itself, brought there by writes in place."""
        while isinstance(node, fx.Node) and node in self.writes:
            node = self.writes[node].base
        return node is target

    # -- one update ---------------------------------------------------------------------------------------------

    def _try(self, node: fx.Node) -> None:
        base = node.args[0]
        if not isinstance(base, fx.Node) or not _same_geometry(node, base):
            return
        root = self._root(base)
        # A write through a view is right only if the view is the whole tensor as it stands.
        if not self._same_tensor(base, root) or not self._owned(root):
            return
        copy = self.written_back.get(root)
        if node.target in _POINTWISE and (copy is None or copy.args[1] is not node):
            return
        absorbed: set[fx.Node] = set()
        write = self._write(node, base, (), absorbed, root)
        if write is None:
            return
        reads = [n for n in write.inputs if n is not base and self._root(n) is root]
        if reads:
            return
        position = self.at[node]
        ignored: set[Step] = {node, *absorbed}
        if copy is not None:
            ignored.add(copy)
        if self._read_after(root, position, ignored):
            return
        if copy is not None and self._root_is_read_by(copy, root, node):
            return
        self.writes[node] = write
        self.dropped |= absorbed
        # An absorbed node's operands are now read here.
        for read in write.inputs:
            self.readers.setdefault(read, []).append(node)
        self._join(node, root)

    def _root_is_read_by(self, copy: fx.Node, root: fx.Node, node: fx.Node) -> bool:
        """Whether the trailing copy reads the base through something that is not this update's successor."""
        source = copy.args[1]
        return (
            isinstance(source, fx.Node)
            and source is not node
            and self._root(source) is root
            and self.at.get(source, 0) < self.at[node]
        )

    def _same_tensor(self, base: fx.Node, root: fx.Node) -> bool:
        while base is not root:
            if base not in self.writes:
                return False
            base = self.writes[base].base
        return True

    def _write(
        self, node: fx.Node, base: fx.Node, path: tuple[Any, ...], absorbed: set[fx.Node], root: fx.Node
    ) -> Write | None:
        target: Any = node.target
        if target in _METHODS or target in _POINTWISE:
            method = _METHODS.get(target) or _POINTWISE[target]
            return Write(base, path, method, node.args[1:], tuple(node.kwargs.items()))
        if target is aten.copy.default:
            return Write(base, path, "copy_", node.args[1:2])
        source, where = _scattered(node)
        path = (*path, (_REGIONS[target], where))
        if isinstance(source, fx.Node) and self._absorbable(source, node, where):
            inner: set[fx.Node] = set()
            write = self._write(source, base, path, inner, root)
            if write is not None and not any(self._root(n) is root for n in write.inputs if n is not base):
                absorbed |= inner | {source}
                return write
        return Write(base, path, "copy_", (source,))

    def _absorbable(self, source: fx.Node, node: fx.Node, where: tuple[Any, ...]) -> bool:
        """Whether `source` is an update, read by `node` alone, of the very region that `node` puts back."""
        if source.target not in _METHODS and source.target not in _REGIONS and source.target is not aten.copy.default:
            return False
        if source not in self.at or source in self.writes or set(self.readers.get(source, ())) != {node}:
            return False
        region = source.args[0]
        if not isinstance(region, fx.Node) or region.target is not _REGIONS[node.target]:
            return False
        return _padded(region) == where and _place(region.args[0]) == _place(node.args[0])

    def _drop_unread(self) -> None:
        """Views that only described where a write goes are left without readers."""
        for step in reversed(self.steps):
            if isinstance(step, Region) or step in self.dropped or step in self.writes or not is_view(step):
                continue
            readers = [r for r in self.readers.get(step, ()) if r not in self.dropped]
            if all(
                r in self.writes and step not in self.writes[r].inputs for r in readers if isinstance(r, fx.Node)
            ) and not any(isinstance(r, Region) for r in readers):
                self.dropped.add(step)


def _place(node: Any) -> tuple[Any, ...]:
    """What a view shows, as its base and the slices taken: functionalisation makes the same view again for each use."""
    path: list[Any] = []
    while isinstance(node, fx.Node) and node.target in (aten.slice.Tensor, aten.select.int):
        path.append((node.target, _padded(node)))
        node = node.args[0]
    return (node, *path)


def _same_geometry(node: fx.Node, base: fx.Node) -> bool:
    """In place keeps the base's shape, strides and dtype; the functional update must have had them too."""
    new, old = node.meta.get("val"), base.meta.get("val")
    if not isinstance(new, torch.Tensor) or not isinstance(old, torch.Tensor):
        return False
    return (
        new.dtype == old.dtype
        and tuple(map(str, new.shape)) == tuple(map(str, old.shape))
        and all(str(stride) != "0" or str(size) == "1" for size, stride in zip(old.shape, old.stride(), strict=True))
    )


def _scattered(node: fx.Node) -> tuple[Any, tuple[Any, ...]]:
    """The source of a scatter of a region, and the arguments that say where it goes."""
    names = ("dim", "index") if node.target is aten.select_scatter.default else ("dim", "start", "end", "step")
    given = dict(zip(names, node.args[2:], strict=False)) | dict(node.kwargs)
    return node.args[1], _where(node.target is aten.select_scatter.default, given)


def _padded(region: fx.Node) -> tuple[Any, ...]:
    """The arguments of a slice or select, with its defaults."""
    select = region.target is aten.select.int
    names = ("dim", "index") if select else ("dim", "start", "end", "step")
    return _where(select, dict(zip(names, region.args[1:], strict=False)) | dict(region.kwargs))


def _where(select: bool, given: dict[str, Any]) -> tuple[Any, ...]:
    if select:
        return (given["dim"], given["index"])
    return (given.get("dim", 0), given.get("start"), given.get("end"), given.get("step", 1))
