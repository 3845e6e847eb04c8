"""A linear layer's bias apart from it, on CUDA in fp32: cuBLAS has faster kernels for a product alone.

    linear = aten.linear(x, w, bias)            linear = aten.linear(x, w)
    gelu = aten.gelu(linear)                    add = aten.add(linear, bias)
                                                gelu = aten.gelu(add)

The addition then belongs to the kernel that reads the result. With torch 2.11 on an H200 the product alone is 0.98 to
1.39 times as fast, by shape (17 of ViT, BERT and ConvNeXt: `benchmarks/linear_bias.py`). In fp16 and bf16 it mostly is,
too, but the product would be rounded once more than eager rounds it.

Only where everything that reads the result can be in a kernel; if the addition is in none in the end, the layer is put
back together.
"""

from __future__ import annotations

from collections.abc import Container

import torch
from torch import fx

from akg_dynamo.conv_bias import read_by_kernels
from akg_dynamo.fusion.ops import OpKind, classify

aten = torch.ops.aten
_MARK = "bias_of_linear"


def take_apart(graph: fx.Graph, *, device: str = "cuda") -> int:
    """Rewrites the graph; computes what it computed, but for the rounding of the sum. Says how many were."""
    changed = 0
    for node in list(graph.nodes):
        if node.target is not aten.linear.default or len(node.args) < 3 or node.args[2] is None:
            continue
        if classify(node) is not OpKind.MATMUL:
            continue  # a thin one may be a kernel itself
        value, (x, weight, bias) = node.meta["val"], node.args
        if value.device.type != device or value.dtype is not torch.float32 or not read_by_kernels(node, all):
            continue
        with graph.inserting_after(node):
            total = graph.call_function(aten.add.Tensor, (node, bias))
        total.meta = {**node.meta, _MARK: True}
        node.replace_all_uses_with(total)
        total.update_arg(0, node)
        node.args = (x, weight)
        changed += 1
    return changed


def put_together(graph: fx.Graph, in_kernels: Container[fx.Node]) -> dict[fx.Node, fx.Node]:
    """Layers whose addition is in no kernel become what they were: what was the sum, by it the product that is gone."""
    whole: dict[fx.Node, fx.Node] = {}
    for total in list(graph.nodes):
        if _MARK not in total.meta or total in in_kernels:
            continue
        linear, bias = total.args
        total.target, total.args = aten.linear.default, (*linear.args, bias)
        del total.meta[_MARK]
        graph.erase_node(linear)
        whole[total] = linear
    return whole


def summary(graph: fx.Graph) -> str:
    """Says how many layers are apart; empty if none is."""
    apart = sum(_MARK in node.meta for node in graph.nodes)
    return f"linear layers whose bias is added by the kernel that reads the product: {apart}" if apart else ""
