"""A convolution's bias apart from it, on CUDA: cuDNN adds none, and torch adds it in a pass of its own over the result.

    conv = aten.convolution(x, w, bias, …)      conv = aten.convolution(x, w, None, …)
    relu = aten.relu(conv)                      b = aten.view(bias, [C, 1, 1])
                                                add = aten.add(conv, b)
                                                relu = aten.relu(add)

The addition then belongs to the kernel that reads the result: for a ConvNeXt it was 7% of eager's time on an H200
(`benchmarks/cuda_profile.py --model convnext`). Only where something that can be in a kernel reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import fx
from torch._guards import detect_fake_mode

from akg_dynamo.fusion.ops import OpKind, classify

aten = torch.ops.aten
_READERS = (OpKind.POINTWISE, OpKind.REDUCTION, OpKind.NORM, OpKind.CAST)
_PASSED_ON = (OpKind.VIEW, OpKind.GETITEM)


def bias_apart(gm: fx.GraphModule, *, device: str = "cuda") -> int:
    """Rewrites the graph of `gm` in place; computes what it computed. Says how many were."""
    mode = detect_fake_mode([n.meta["val"] for n in gm.graph.nodes if isinstance(n.meta.get("val"), torch.Tensor)])
    changed = 0
    for node in list(gm.graph.nodes):
        if node.target is not aten.convolution.default or node.args[2] is None:
            continue
        value = node.meta["val"]
        if mode is None or value.device.type != device or not read_by_kernels(node, any):
            continue
        bias = node.args[2]
        shape = [-1, *[1] * (value.dim() - 2)]
        node.update_arg(2, None)
        with gm.graph.inserting_after(node), mode:
            beside = gm.graph.call_function(aten.view.default, (bias, shape))
            beside.meta["val"] = bias.meta["val"].view(shape)
        with gm.graph.inserting_after(beside):
            total = gm.graph.call_function(aten.add.Tensor, (node, beside))
            total.meta = dict(node.meta)
        node.replace_all_uses_with(total)
        total.update_arg(0, node)
        changed += 1
    return changed


def read_by_kernels(node: fx.Node, which: Callable[[Iterable[bool]], bool]) -> bool:
    """Whether any, or all (`which`), of what reads the value or a view of it can be in a kernel."""
    return bool(node.users) and which(
        (kind := classify(user)) in _READERS or (kind in _PASSED_ON and read_by_kernels(user, which))
        for user in node.users
    )
