"""Normalisations whose weights are wider than their input, on the CPU: tracing is wrong about their dtypes.

Autocast on a CPU leaves weights and running statistics in fp32 beside activations in bf16. torch's kernels then keep
the mean and the inverse deviation in fp32, and want them so in the backward pass; the trace says that they are bf16. It
also says fp32 of group norm's gradient, which is bf16. A kernel built on such a trace would hand the next operator what
it refuses. So those norms stay with torch where their statistics are read, and the graph is told the true dtypes.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx
from torch._guards import detect_fake_mode

from akg_dynamo.core.types import SplitReason, SplitReasonType
from akg_dynamo.fusion.ops import base_name, tensors_of

_FORWARD = frozenset(
    {
        "native_layer_norm", "native_group_norm", "native_batch_norm", "_native_batch_norm_legit",
        "_native_batch_norm_legit_functional", "_batch_norm_with_update", "_batch_norm_with_update_functional",
    }
)  # fmt: skip
_BACKWARD = frozenset(
    {"native_layer_norm_backward", "native_group_norm_backward", "native_batch_norm_backward", "batch_norm_backward"}
)
_STATISTICS = ("mean", "rstd", "save_mean", "save_invstd", "save_var")
_BESIDE = ("weight", "bias", "running_mean", "running_var")
_WHY = SplitReason(SplitReasonType.DTYPE, "a norm in two dtypes, whose statistics are not what was traced")


def correct_mixed_norms(gm: fx.GraphModule) -> None:
    """Corrects the traced dtypes in `gm`, and keeps those norms with torch whose statistics are read."""
    mode = detect_fake_mode([n.meta["val"] for n in gm.graph.nodes if isinstance(n.meta.get("val"), torch.Tensor)])
    if mode is None:
        return
    changed: set[fx.Node] = set()
    for node in gm.graph.nodes:
        if node.op == "call_function" and not changed.isdisjoint(node.all_input_nodes):
            with mode:
                changed.update(_traced_again(node))
        found = list(_untrue(node))
        for value, dtype in found:
            value.meta["val"] = _like(value.meta["val"], dtype)
        changed.update(value for value, _ in found)


def _untrue(node: fx.Node) -> Iterator[tuple[fx.Node, torch.dtype]]:
    """The values around a norm in two dtypes whose dtype is not what it says, each with what it is."""
    name = base_name(node.target) if node.op == "call_function" else ""
    if name not in _FORWARD and name not in _BACKWARD:
        return
    given = _arguments(node)
    narrow = _dtype(given.get("input"))
    if narrow not in (torch.bfloat16, torch.float16) or given["input"].meta["val"].device.type != "cpu":
        return
    if all(_dtype(given.get(beside)) in (None, narrow) for beside in _BESIDE):
        return
    outputs = {user.args[1]: user for user in node.users if user.target is operator.getitem}
    if name in _FORWARD:
        around = [(outputs[i], torch.float32) for i in (1, 2) if i in outputs and outputs[i].users]
    else:
        statistics = [given.get(statistic) for statistic in _STATISTICS]
        around = [(value, torch.float32) for value in statistics if isinstance(value, fx.Node)]
        around += [(outputs[0], narrow)] if 0 in outputs else []
    if around:
        node.meta["stays_with_torch"] = _WHY
    yield from ((value, dtype) for value, dtype in around if _dtype(value) != dtype)


def _arguments(node: fx.Node) -> dict[str, Any]:
    """What the operator is given, by the names that it has in the operator's schema."""
    assert isinstance(node.target, torch._ops.OpOverload)
    names = [argument.name for argument in node.target._schema.arguments]
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}


def _dtype(node: Any) -> torch.dtype | None:
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return value.dtype if isinstance(value, torch.Tensor) else None


def _like(value: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return value.new_empty_strided(value.shape, value.stride(), dtype=dtype)


def _traced_again(node: fx.Node) -> Iterator[fx.Node]:
    """The node, if its dtype is another one now that its operands' is."""
    arguments, keywords = fx.map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
    before, node.meta["val"] = node.meta["val"], node.target(*arguments, **keywords)  # type: ignore[operator]
    if [t.dtype for t in tensors_of(before)] != [t.dtype for t in tensors_of(node.meta["val"])]:
        yield node
