"""What a loop over slices keeps or adds up slice by slice, as one tensor.

The gradient of `x[:, i]` is as large as `x`, and zero but in one place. Where each `x[:, i]` is used, there is one for
each, and they are added up:

    a = aten.select_backward(grad_1, [8, 2], 1, 1)
    b = aten.select_backward(grad_0, [8, 2], 1, 0)         stack = aten.stack([grad_0, grad_1], 1)
    add = aten.add(a, b)

What is computed of each slice alone is computed of all of them:

    mul = aten.mul(grad, aten.select(x, 0, 0))
    mul_1 = aten.mul(grad_1, aten.select(x, 0, 1))         stack = aten.stack([grad, grad_1])
    stack = aten.stack([mul, mul_1])                       mul = aten.mul(stack, x)

A loop that is one kernel cannot return the values of single trips, which its backward pass reads: it stacks them.

    add_1 = aten.add(mul_1, x_1)                           states = aten.stack([add, add_1, …])
    …                                                      …
    mul_9 = aten.mul(grad, add_1)                          mul_9 = aten.mul(grad, aten.select(states, 0, 1))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import fx
from torch._guards import detect_fake_mode
from torch.utils.checkpoint import CheckpointPolicy

from akg_dynamo.fusion.ops import OpKind, classify
from akg_dynamo.fusion.symbols import has_known_layout
from akg_dynamo.fusion.unrolled import Before, GraphLoop, Pattern, Same, computable, graph_loops

aten = torch.ops.aten


def stack_gradients(graph: fx.Graph) -> None:
    """Rewrites `graph` in place: every sum of nothing but gradients of selections, one for each place."""
    position = {node: i for i, node in enumerate(graph.nodes)}
    done: set[fx.Node] = set()
    for node in reversed(list(graph.nodes)):
        if node.target is not aten.add.Tensor or node in done:
            continue
        added, gradients = _terms(node)
        done.update(added)
        parts = _by_place(gradients, node)
        if parts is None:
            continue
        first = gradients[0]
        with graph.inserting_before(node):
            stack = graph.call_function(aten.stack.default, (parts, first.args[2]))
        stack.meta = dict(node.meta)
        node.replace_all_uses_with(stack)
        for old in sorted((*added, *gradients), key=lambda n: -position[n]):
            graph.erase_node(old)


def _terms(root: fx.Node) -> tuple[list[fx.Node], list[fx.Node]]:
    """The sums that `root` is made of, itself first, and what they add up: empty if that is anything but gradients."""
    added: list[fx.Node] = []
    gradients: list[fx.Node] = []
    stack = [root]
    while stack:
        node = stack.pop()
        if node.target is aten.add.Tensor and not node.kwargs and (node is root or len(node.users) == 1):
            added.append(node)
            stack.extend(n for n in node.args if isinstance(n, fx.Node))
        elif node.target is aten.select_backward.default and len(node.users) == 1:
            gradients.append(node)
        else:
            return [], []
    return added, gradients


def _by_place(gradients: Sequence[fx.Node], total: fx.Node) -> list[fx.Node] | None:
    """What is placed at 0, 1, 2 …, if there is one for each place along one dim."""
    value = total.meta["val"]
    dims = {g.args[2] for g in gradients}
    if len(dims) != 1 or not has_known_layout(value) or not value.is_contiguous():
        return None
    (dim,) = dims
    assert isinstance(dim, int)
    size = value.shape[dim]
    parts = {g.args[3]: g.args[0] for g in gradients}
    same = all(g.meta["val"].dtype is value.dtype and g.meta["val"].dim() == value.dim() for g in gradients)
    if not isinstance(size, int) or len(gradients) != size or parts.keys() != set(range(size)) or not same:
        return None
    found = [parts[i] for i in range(size)]
    return [n for n in found if isinstance(n, fx.Node)]


def _shape(node: fx.Node) -> tuple[int, ...] | None:
    value = node.meta.get("val")
    return tuple(value.shape) if has_known_layout(value) else None


# --------------------------------------------------------------------------------------------------------------------
# What is computed slice by slice


def compute_stacked(graph: fx.Graph) -> None:
    """Rewrites `graph` in place: stacks of one elementwise function of slices of tensors, and of what is stacked."""
    stacks: dict[tuple[Any, ...], fx.Node] = {}
    for node in list(graph.nodes):
        if node.target is not aten.stack.default or not has_known_layout(node.meta["val"]):
            continue
        operands: list[Any] = list(node.args[0])
        dim = (node.args[1] if len(node.args) > 1 else 0) % node.meta["val"].dim()
        instead = _computed_stacked(graph, node, operands, dim, stacks)
        if instead is None:
            stacks[(dim, *operands)] = node
            continue
        node.replace_all_uses_with(instead)
        for old in (node, *operands):
            graph.erase_node(old)


_LEAST = 4
_FEW = 2
Piece = tuple[Any, int, int, int]
"""A part of a stack: (x, dim, first, count) is so many slices of x along dim, from the first on; (x, 0, 0, 0) is x."""


def _computed_stacked(
    graph: fx.Graph, node: fx.Node, operands: Sequence[Any], dim: int, stacks: Mapping[tuple[Any, ...], fx.Node]
) -> fx.Node | None:
    first, mode = operands[0], detect_fake_mode([node.meta["val"]])
    if mode is None or len(set(operands)) != len(operands) or len(operands) < _LEAST:
        return None
    if classify(first) is not OpKind.POINTWISE or not all(_is_alike(n, first) for n in operands):
        return None
    sources: list[Any] = []
    for column in zip(*(n.args for n in operands), strict=True):
        if not any(isinstance(a, fx.Node) for a in column):
            if any(type(a) is not type(column[0]) or a != column[0] for a in column):
                return None
            sources.append(column[0])
            continue
        pieces = _pieces(column)
        known = stacks.get((dim, *column))
        if known is None and len(pieces) > _FEW:
            return None
        sources.append(known or pieces)
    with graph.inserting_before(node), mode:
        args = [_joined(graph, source, dim) if isinstance(source, list) else source for source in sources]
        found = _call(graph, first.target, *args)
    value, before = found.meta["val"], node.meta["val"]
    # Where it is something else, what was made for it is read by nobody, and falls away.
    return found if value.stride() == before.stride() and value.dtype is before.dtype else None


def _is_alike(node: fx.Node, first: fx.Node) -> bool:
    """Whether it is the same function of operands of the same sizes, and is stacked only."""
    same = node.target is first.target and not node.kwargs and len(node.args) == len(first.args)
    if not same or len(node.users) != 1 or node.meta["val"].dtype is not first.meta["val"].dtype:
        return False
    return all(_shape(a) == _shape(first) for a in node.all_input_nodes)


def _pieces(column: Sequence[Any]) -> list[Piece]:
    """The operands, neighbouring slices together."""
    pieces: list[Piece] = []
    for node in column:
        if not isinstance(node, fx.Node) or node.target is not aten.select.int:
            pieces.append((node, 0, 0, 0))
            continue
        source, dim, index = cast("tuple[fx.Node, int, int]", node.args)
        last, along, first, count = pieces[-1] if pieces else (None, 0, 0, 0)
        if count and last is source and along == dim and first + count == index:
            pieces[-1] = (source, dim, first, count + 1)
        else:
            pieces.append((source, dim, index, 1))
    return pieces


def _joined(graph: fx.Graph, pieces: Sequence[Piece], dim: int) -> fx.Node:
    parts: list[fx.Node] = []
    for source, along, first, count in pieces:
        if not count:
            parts.append(_call(graph, aten.unsqueeze.default, source, dim))
            continue
        value = source.meta["val"]
        part = source
        if count != value.shape[along]:
            part = _call(graph, aten.slice.Tensor, part, along, first, first + count)
        order = [d for d in range(value.dim()) if d != along % value.dim()]
        order.insert(dim, along % value.dim())
        parts.append(_call(graph, aten.permute.default, part, order))
    return parts[0] if len(parts) == 1 else _call(graph, aten.cat.default, parts, dim)


def _call(graph: fx.Graph, target: Any, *args: Any) -> fx.Node:
    """A new node, with its value; under the values' fake mode."""
    node = graph.call_function(target, args)
    node.meta["val"] = target(*fx.map_arg(args, lambda n: n.meta["val"]))
    return node


# --------------------------------------------------------------------------------------------------------------------
# What is read slice by slice


def compute_slices(graph: fx.Graph) -> None:
    """Rewrites `graph` in place: an elementwise value that is read in slices is computed in them, where they are read.

    exp = aten.exp(x)                              …
    mul = aten.mul(grad, aten.select(exp, 0, 0))   mul = aten.mul(grad, aten.exp(aten.select(x, 0, 0)))
    """
    for node in reversed(list(graph.nodes)):
        if classify(node) is not OpKind.POINTWISE or node.kwargs or _shape(node) is None:
            continue
        slices = [u for u in node.users if u.target is aten.select.int]
        places = {(u.args[1], u.args[2]) for u in slices}
        mode = detect_fake_mode([node.meta["val"]])
        if len(slices) < _LEAST or len(places) != len(slices) or len({d for d, _ in places}) != 1 or mode is None:
            continue
        for user in slices:
            with graph.inserting_before(user), mode:
                computed = _slice_of(graph, node, cast(int, user.args[1]), cast(int, user.args[2]))
                alike = all(_reads_alike(reader, user, computed.meta["val"]) for reader in user.users)
            if alike:
                user.replace_all_uses_with(computed)
                graph.erase_node(user)
            else:
                _erase_unread(graph, computed)
        if not node.users:
            graph.erase_node(node)


def _erase_unread(graph: fx.Graph, node: fx.Node) -> None:
    """Erases what nobody reads, and then nobody reads either."""
    operands = node.all_input_nodes
    graph.erase_node(node)
    for operand in operands:
        if not operand.users:
            _erase_unread(graph, operand)


def _reads_alike(reader: fx.Node, node: fx.Node, instead: torch.Tensor) -> bool:
    """Whether the reader's result is laid out the same when it reads `instead`, which may be laid out otherwise."""
    if classify(reader) not in (OpKind.POINTWISE, OpKind.CAST, OpKind.REDUCTION) or "val" not in reader.meta:
        return False
    args, kwargs = fx.map_arg((reader.args, reader.kwargs), lambda n: instead if n is node else n.meta["val"])
    before, after = reader.meta["val"], cast(Any, reader.target)(*args, **kwargs)
    return has_known_layout(before) and after.stride() == before.stride() and after.dtype is before.dtype


def _slice_of(graph: fx.Graph, node: fx.Node, dim: int, index: int) -> fx.Node:
    """A slice of an elementwise function: the function of slices."""
    rank = node.meta["val"].dim()

    def part(operand: fx.Node) -> fx.Node:
        shape = operand.meta["val"].shape
        along = dim % rank - (rank - len(shape))
        if along < 0:
            return operand
        return _call(graph, aten.select.int, operand, along, index if shape[along] != 1 else 0)

    return _call(graph, node.target, *fx.map_arg(node.args, part))


# --------------------------------------------------------------------------------------------------------------------
# What loops keep


def stack_saved(graph: fx.Graph, device: str) -> list[fx.Node]:
    """Rewrites a joint graph in place, where a kernel may compute the loop and what is kept of it are carried values.

    Casts of those are made again where they are wanted. Gives the stacks.
    """
    if device != "cuda":
        return []  # elsewhere loops are computed as they stand
    found: list[fx.Node] = []
    backward = _backward(graph)
    for loop in graph_loops(graph):
        if backward.isdisjoint(loop.inside) and all(computable(node, device) for node in loop.inside):
            saved = _Saved(graph, loop)
            saved.stack()
            found += saved.stacks.values()
    return found


def _backward(graph: fx.Graph) -> set[fx.Node]:
    """What a joint graph computes of the gradients of its results."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        tangent = node.op == "placeholder" and "tangents" in str(node.target)  # as AOTAutograd has it
        if tangent or not found.isdisjoint(node.all_input_nodes):
            found.add(node)
    return found


class _Saved:
    """The values of one loop that are read outside it."""

    def __init__(self, graph: fx.Graph, loop: GraphLoop) -> None:
        self.graph, self.loop, self.nodes = graph, loop.loop, loop.nodes
        self.inside = loop.inside
        self.place = {
            self.nodes[v]: (c, trip) for c, chain in enumerate(self.loop.chains) for trip, v in enumerate(chain.values)
        }
        self.end = max(v for v in self.loop.values)
        self.stacks: dict[int, fx.Node] = {}
        self.instead: dict[fx.Node, fx.Node] = {}

    def stack(self) -> None:
        """Replaces what is read, if all of it can be."""
        read = {n: [u for u in n.users if u not in self.inside] for n in self.place if self._varies(self.place[n][0])}
        read = {n: users for n, users in read.items() if users}
        number = {node: i for i, node in enumerate(self.nodes)}
        mode = detect_fake_mode([n.meta["val"] for n in read])
        chains = {self.place[n][0] for n in read}
        after = all(number[u] > self.end for users in read.values() for u in users)
        if not read or mode is None or not after or not all(map(self._again, chains)):
            return
        if not all(has_known_layout(n.meta["val"]) and n.meta["val"].is_contiguous() for n in read):
            return
        after_loop = self.nodes[self.end].next
        with self.graph.inserting_before(after_loop), mode:
            for node, users in read.items():
                instead = self._instead(node)
                for user in users:
                    user.replace_input_with(node, instead)

    def _varies(self, chain: int) -> bool:
        """Whether a chain follows from what is carried."""
        of = self.loop.chains[chain]
        return of.initial is not None or any(
            isinstance(p, Before) or (isinstance(p, Same) and self._varies(p.chain)) for p in _leaves(of.args)
        )

    def _again(self, chain: int) -> bool:
        """Whether its values can be read from a stack, or computed from such."""
        of = self.loop.chains[chain]
        if of.initial is not None:
            return True
        elementwise = classify(self.nodes[of.values[0]]) in (OpKind.CAST, OpKind.VIEW)
        return elementwise and not any(
            isinstance(p, Before) or (isinstance(p, Same) and not self._again(p.chain)) for p in _leaves(of.args)
        )

    def _instead(self, node: fx.Node) -> fx.Node:
        """The same value, of the stack."""
        found = self.instead.get(node)
        if found is not None:
            return found
        chain, trip = self.place[node]
        if self.loop.chains[chain].initial is not None:
            stack = self._stack_of(chain)
            found = _call(self.graph, aten.select.int, stack, 0, trip)
        else:
            operands = {n: self._instead(n) if n in self.place else n for n in node.all_input_nodes}
            found = self.graph.node_copy(node, lambda n: operands[n])
        self.instead[node] = found
        return found

    def _stack_of(self, chain: int) -> fx.Node:
        if chain not in self.stacks:
            values = [self.nodes[v] for v in self.loop.chains[chain].values]
            stack = self.stacks[chain] = _call(self.graph, aten.stack.default, values, 0)
            stack.meta["recompute"] = CheckpointPolicy.MUST_SAVE  # rather than each of its operands
        return self.stacks[chain]


def _leaves(pattern: Pattern) -> Sequence[Pattern]:
    if isinstance(pattern, tuple):
        return [leaf for p in pattern for leaf in _leaves(p)]
    return [pattern]
