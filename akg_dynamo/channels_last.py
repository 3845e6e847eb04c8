"""Convolutions with their channels last in memory, on CUDA: what cuDNN's fast kernels compute with.

Given tensors with the channels first, cuDNN turns every operand and every result, in memory of its own (a third of a
ResNet's time). With the weights' channels last, a convolution returns its channels last, the kernels that follow keep
what they are given, and the next convolution has nothing to turn. Only the graph's inputs and results are as the
program has them.

    conv = aten.convolution(x, w, …)            w1 = aten.clone(w, memory_format=channels_last)
    relu = aten.relu(conv)                      conv = aten.convolution(x, w1, …)        channels last from here on
    return relu                                 relu = aten.relu(conv)
                                                out = aten.clone(relu, memory_format=contiguous_format)

Whether that pays depends on the library, and on every shape. So both are timed on the device, each graph's own
convolutions with the copies that its new form needs, and the new form is kept if it wins as a kernel must win. It is
the device's time that counts: the copies are a launch each for the host, and the peak of memory is lower, too.

Of a training graph this is done before it is cut in two: what the forward half saves, the backward half reads as laid
out.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch._guards import detect_fake_mode
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import _disable_current_modes

from akg_dynamo.agents.profiler.device import CudaQueue, DeviceMeasure, compare_on_device
from akg_dynamo.cache.entry import Entry, Provenance, Worth
from akg_dynamo.cache.flags import EagerFlags
from akg_dynamo.cache.store import Store
from akg_dynamo.core.types import SplitReason, SplitReasonType, Timing
from akg_dynamo.fusion.symbols import has_known_layout

aten = torch.ops.aten

_CONVOLUTIONS = (aten.convolution.default, aten.convolution_backward.default)
_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
_BUDGET_S = 0.3
_SHARE_OF_FREE = 0.25  # of the device's memory, for the operands that are timed
_ANYTHING = 0.1  # what the operands hold: not zeros, with which a device draws less power and runs faster
_REFUSALS = (RuntimeError, ValueError)
_LAID_OUT = SplitReason(SplitReasonType.CONV, "laid out for its convolution")

Work = Sequence[fx.Node]
"""Operators with their operands' fake values: what is timed, one after the other."""
Clock = Callable[[str, Work, Work], "Timing | None"]
"""`clock(key, before, after)`: how much faster `after` is, or None where that cannot be measured. The key says what is
compared: equal ones have equal answers on one device."""


class _GiveUp(Exception):
    """The rewritten graph would not do what the original does."""


@dataclass(frozen=True)
class Rewritten:
    """The same computation with channels last; its convolutions as they were, and as they are with their copies."""

    graph: fx.Graph
    before: Work
    after: Work


def has_convolutions(graph: fx.Graph) -> bool:
    """Whether there is anything to lay out."""
    return any(n.target in _CONVOLUTIONS for n in graph.nodes)


def channels_last(gm: fx.GraphModule, clock: Clock, *, device: str = "cuda") -> str:
    """Rewrites the graph of `gm` if that pays, and says so in a sentence: "" if it does not. For sizes known only."""
    rewritten = rewrite(gm, device)
    if rewritten is None:
        return ""
    timing = clock(_key(rewritten), rewritten.before, rewritten.after)
    if timing is None or not timing.wins():
        return ""
    gm.graph = rewritten.graph
    return (
        f"{len(rewritten.before)} convolutions have their channels last in memory: {timing.ratio:.2f} x as fast "
        f"({timing.low:.2f} to {timing.high:.2f}), their copies of weights, inputs and results included"
    )


# --------------------------------------------------------------------------------------------------------------------
# The rewriting: every node's value anew, from operands that may be laid out otherwise


def rewrite(gm: fx.GraphModule, device: str) -> Rewritten | None:
    """The graph with channels last; None where there is nothing to gain, or something in the way."""
    before = [n for n in gm.graph.nodes if n.target in _CONVOLUTIONS]
    if not before or not all(_is_known(n, device) for n in gm.graph.nodes):
        return None
    mode = detect_fake_mode([n.meta["val"] for n in gm.graph.nodes if isinstance(n.meta.get("val"), torch.Tensor)])
    if mode is None:
        return None
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    graph.graph_copy(gm.graph, copies)
    weights: dict[fx.Node, fx.Node] = {}
    try:
        for node in list(graph.nodes):
            _Step(graph, node, mode, weights).take()
        graph.output(_results_as_before(gm.graph, graph, copies, mode))
    except _GiveUp:
        return None
    output = next(n for n in reversed(graph.nodes) if n.op == "output")
    output.meta = dict(next(n for n in reversed(gm.graph.nodes) if n.op == "output").meta)
    known = set(copies.values())
    made = [n for n in graph.nodes if n.target is aten.clone.default and n not in known]
    if not made:
        return None  # all as they should be
    return Rewritten(graph, before, [n for n in graph.nodes if n.target in _CONVOLUTIONS or n in set(made)])


def _is_known(node: fx.Node, device: str) -> bool:
    """Whether the node's value has a size in numbers, and if it is a convolution, lies on that type of device."""
    values = node.meta.get("val")
    for value in values if isinstance(values, tuple | list) else (values,):
        if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
            return False
        if isinstance(value, torch.Tensor) and not has_known_layout(value):
            return False
    if node.target not in _CONVOLUTIONS:
        return True
    x, weight = (n.meta["val"] for n in _operands(node)[-2:])
    return x.dim() in _FORMATS and x.device.type == device and weight.is_floating_point()


def _operands(node: fx.Node) -> tuple[fx.Node, ...]:
    """Of a convolution: x, weight; of its gradient: the result's gradient, x, weight."""
    return node.args[:2] if node.target is aten.convolution.default else node.args[:3]  # type: ignore[return-value]


class _Step:
    """One node of the new graph."""

    def __init__(self, graph: fx.Graph, node: fx.Node, mode: FakeTensorMode, weights: dict[fx.Node, fx.Node]) -> None:
        """`weights`: the copies made so far, which what follows may read, too: forward and backward pass share them."""
        self.graph, self.node, self.mode, self.weights = graph, node, mode, weights

    def take(self) -> None:
        """Gives the node its value; turns a convolution's weight, and the operand of a view that needs it."""
        node, target = self.node, self.node.target
        if node.op != "call_function" or "val" not in node.meta:
            return
        if isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable:
            return
        if target in _CONVOLUTIONS:
            self._turn_weight()
        before = node.meta["val"]
        try:
            after = self._value()
        except _REFUSALS:  # a view that these strides do not allow
            after = self._of_a_contiguous_operand()
        if not _alike(before, after):
            raise _GiveUp
        if target is aten.convolution.default and not _is_last(after):
            self._turn(0, _FORMATS[after.dim()], None)  # a weight of 1 x 1 says nothing: its operand decides
            after = self._value()
            if not _is_last(after):
                raise _GiveUp  # this library returns what it likes
        node.meta["val"] = after

    def _turn_weight(self) -> None:
        position = len(_operands(self.node)) - 1
        weight = self.node.args[position]
        assert isinstance(weight, fx.Node)
        if weight in self.weights:
            self.node.update_arg(position, self.weights[weight])
        elif self._turn(position, _FORMATS[weight.meta["val"].dim()], _LAID_OUT):
            self.weights[weight] = self.node.args[position]  # type: ignore[assignment]

    def _of_a_contiguous_operand(self) -> Any:
        if not self.node.args or not isinstance(self.node.args[0], fx.Node):
            raise _GiveUp
        self._turn(0, torch.contiguous_format, None)
        try:
            return self._value()
        except _REFUSALS as refusal:
            raise _GiveUp from refusal

    def _value(self) -> Any:
        """What the node computes, of its operands as they are now."""

        def value(argument: Any) -> Any:
            return fx.map_arg(argument, lambda n: n.meta["val"])

        with self.mode:
            return self.node.target(*value(self.node.args), **value(self.node.kwargs))  # type: ignore[operator]

    def _turn(self, position: int, layout: torch.memory_format, reason: SplitReason | None) -> bool:
        """Has the node read a copy of an operand with that layout, unless it has it. Says whether there is a copy."""
        operand = self.node.args[position]
        assert isinstance(operand, fx.Node)
        if operand.meta["val"].is_contiguous(memory_format=layout):
            return False
        with self.graph.inserting_before(self.node):
            copy = _copied(self.graph, operand, layout, self.mode)
        if reason is not None:
            copy.meta["stays_with_torch"] = reason
        self.node.update_arg(position, copy)
        return True


def _is_last(value: torch.Tensor) -> bool:
    return value.is_contiguous(memory_format=_FORMATS[value.dim()])


def _copied(graph: fx.Graph, operand: fx.Node, layout: torch.memory_format, mode: FakeTensorMode) -> fx.Node:
    copy = graph.call_function(aten.clone.default, (operand,), {"memory_format": layout})
    with mode:
        copy.meta["val"] = operand.meta["val"].clone(memory_format=layout)
    return copy


def _alike(a: Any, b: Any) -> bool:
    """Whether two values differ in their layout at most."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and a.device == b.device
    if isinstance(a, tuple | list) and isinstance(b, tuple | list):
        return len(a) == len(b) and all(map(_alike, a, b))
    return type(a) is type(b) and not isinstance(a, torch.Tensor)


def _results_as_before(old: fx.Graph, new: fx.Graph, copies: dict[fx.Node, fx.Node], mode: FakeTensorMode) -> Any:
    """What the new graph returns: with the strides of what the old one returns."""
    (results,) = next(n for n in reversed(old.nodes) if n.op == "output").args

    def result(node: fx.Node) -> fx.Node:
        before, copy = node.meta.get("val"), copies[node]
        after = copy.meta.get("val")
        if not isinstance(before, torch.Tensor) or not isinstance(after, torch.Tensor):
            return copy
        if before.stride() == after.stride():
            return copy
        if not before.is_contiguous():
            raise _GiveUp
        return _copied(new, copy, torch.contiguous_format, mode)

    return fx.map_arg(results, result)


# --------------------------------------------------------------------------------------------------------------------
# Both forms on the device


def on_device(_key: str, before: Work, after: Work) -> Timing | None:
    """A `Clock`: both interleaved on the device that they are for, by that device's time."""
    if not torch.cuda.is_available():
        return None
    with _disable_current_modes(), torch.no_grad():
        free, _ = torch.cuda.mem_get_info()
        operands = _Operands(int(free * _SHARE_OF_FREE))
        try:
            old, new = (_call(list(map(operands.of, work))) for work in (before, after))
            measure = DeviceMeasure(CudaQueue(), old, new, n_sets=1)
            # The host's time is not theirs alone: it has the whole graph to run ahead, and a compiler beside it now.
            measure.times_host, measure.times_device = False, True
            return compare_on_device(measure, _BUDGET_S)
        except (RuntimeError, MemoryError):  # the library has no kernel for one of them, or too little memory is left
            return None


class _Operands:
    """Real tensors for fake ones; one for all that are alike."""

    def __init__(self, limit_bytes: int) -> None:
        self._made: dict[object, torch.Tensor] = {}
        self._left = limit_bytes

    def of(self, node: fx.Node) -> Callable[[], object]:
        """A call of the node's operator."""
        target: Any = node.target
        args: Any = fx.map_arg(node.args, lambda n: self._tensor(n.meta["val"]))
        kwargs: Any = fx.map_arg(node.kwargs, lambda n: self._tensor(n.meta["val"]))
        return lambda: target(*args, **kwargs)

    def _tensor(self, fake: Any) -> Any:
        if not isinstance(fake, torch.Tensor):
            return fake
        kind = (tuple(fake.shape), fake.stride(), fake.dtype, fake.device)
        if kind not in self._made:
            room = sum((size - 1) * stride for size, stride in zip(fake.shape, fake.stride(), strict=True)) + 1
            self._left -= room * fake.element_size()
            if self._left < 0:
                raise MemoryError
            whole = torch.full((room,), _ANYTHING, dtype=fake.dtype, device=fake.device)
            self._made[kind] = whole.as_strided(fake.shape, fake.stride())
        return self._made[kind]


def _call(work: Sequence[Callable[[], object]]) -> Callable[[int], None]:
    def call(_data_set: int) -> None:
        for operator in work:
            operator()

    return call


def remembered(clock: Clock | None, store: Store, device: str) -> Clock:
    """A clock that looks into the cache first, and files there what it measures. Without another it only looks."""

    def look(key: str, before: Work, after: Work) -> Timing | None:
        entry = store.get(key)
        known = entry.timing(device) if entry is not None else None
        if known is not None or clock is None:
            return known
        timing = clock(key, before, after)
        if timing is not None:
            now = time.time()
            what = Provenance(
                f"{len(before)} convolutions, channels last", "torch", torch=torch.__version__, created_at=now
            )
            store.put(Entry(key, "", worth={device: Worth(timing, now)}, provenance=what))
        return timing

    return look


def _key(rewritten: Rewritten) -> str:
    """What is compared: operators, shapes, strides, types, and the libraries that compute them, with their flags."""
    cudnn: Any = torch.backends.cudnn
    text = [str((torch.__version__, torch.version.cuda, cudnn.version(), cudnn.benchmark, EagerFlags.now()))]
    for work in (rewritten.before, rewritten.after):
        text += ["|", *map(_signature, work)]
    return hashlib.sha256("\n".join(text).encode()).hexdigest()


def _signature(node: fx.Node) -> str:
    def text(value: Any) -> str:
        fake = value.meta["val"] if isinstance(value, fx.Node) else value
        if isinstance(fake, torch.Tensor):
            return f"{fake.dtype}{tuple(fake.shape)}{fake.stride()}"
        return str(fake)

    return " ".join([str(node.target), *map(text, _flat((node.args, node.kwargs)))])


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, tuple | list):
        for item in value:
            yield from _flat(item)
    elif isinstance(value, dict):
        for key in sorted(value):
            yield key
            yield from _flat(value[key])
    else:
        yield value
