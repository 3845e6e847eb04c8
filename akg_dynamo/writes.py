"""Whether an operator of a Dynamo graph may write to a tensor.

Such a graph is what the model's Python said: it has operators in place, `out` arguments, and any function that torch
knows. So only what is known to read alone is not suspected.
"""

from __future__ import annotations

import operator

import torch
import torch.nn.functional as F
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils import _pytree as pytree

from akg_dynamo.closed_form import only_reads

_READERS = frozenset(
    {
        F.linear,
        F.scaled_dot_product_attention,
        operator.matmul,
        operator.mul,
        operator.truediv,
        torch.addmm,
        torch.bmm,
        torch.matmul,
        torch.mul,
    }
)


def suspected(graph: fx.Graph) -> set[int]:
    """The memory that an operator of the graph may write to."""
    suspects = (node for node in graph.nodes if node.op != "output" and not _reads(node))
    return {address for node in suspects for operand in node.all_input_nodes for address in memory(operand)}


def memory(node: fx.Node) -> set[int]:
    """The memory of what the node returns, as the tensors that it was traced with share it."""
    tensors = [v for v in pytree.tree_leaves(node.meta.get("example_value")) if type(v) is FakeTensor]
    return {t.untyped_storage()._cdata for t in tensors if t.layout is torch.strided}


def _reads(node: fx.Node) -> bool:
    if only_reads(node):
        return True
    if node.target is F.embedding:  # with a largest norm, it scales the rows it reads
        return (node.args[3] if len(node.args) > 3 else node.kwargs.get("max_norm")) is None
    return node.op == "call_function" and node.target in _READERS and "out" not in node.kwargs
