"""Attention masks that say the same whatever the input, as what they say.

Under tracing, libraries build the masks that they leave out in eager, and with a mask attention has no flash kernel:

    mask = arange(s)[:, None] >= arange(s)
    sdpa(q, k, v, attn_mask=mask)            sdpa(q, k, v, is_causal=True)
    sdpa(q, k, v, attn_mask=ones(s, s))      sdpa(q, k, v)

Rewritten in Dynamo's graph: AOTAutograd chooses the kernel, and its backward, when it traces attention. That the mask
says so is proved (`closed_form`), for every size that the graph is for, and no guard is added. One that an operator
might change in place is left, and so is attention with dropout, which draws other numbers in other kernels.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils import _pytree as pytree

from akg_dynamo.closed_form import Form, closed_forms, only_reads
from akg_dynamo.formulas import Choice, Conditions, along, negated
from akg_dynamo.fusion.symbols import expression

_PARAMETERS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
_DEFAULTS: Mapping[str, object] = {"attn_mask": None, "dropout_p": 0.0, "is_causal": False}

_READERS = frozenset(
    {F.scaled_dot_product_attention, operator.matmul, operator.mul, operator.truediv, torch.matmul, torch.mul}
)
"""What else reads a mask, or the positions that it is made of, and leaves them as they are."""


def simplify_attention_masks(gm: fx.GraphModule) -> tuple[str, ...]:
    """Rewrites attention in a Dynamo graph, in place. Returns what was done, for the user to read."""
    masked = [n for n in gm.graph.nodes if n.target is F.scaled_dot_product_attention and _mask(n) is not None]
    if not masked:
        return ()
    forms = closed_forms(gm.graph)
    everything, causal = 0, 0
    replaced: set[fx.Node] = set()
    for node in masked:
        mask = _mask(node)
        if mask not in forms or _argument(node, "dropout_p") != 0 or _argument(node, "is_causal") is not False:
            continue
        if not _fits(forms[mask], node) or mask.meta["example_value"].requires_grad:
            continue
        kept = _kept(forms[mask])
        if kept is None or _may_change(_made_of(mask, forms), gm.graph):
            continue
        if not kept:
            everything += 1
        elif _is_causal(kept, forms[mask], node):
            causal += 1
            _set(node, "is_causal", True)
        else:
            continue
        _set(node, "attn_mask", None)
        replaced |= _made_of(mask, forms)
    for node in reversed(gm.graph.nodes):
        if node in replaced and not node.users:
            gm.graph.erase_node(node)
    if replaced:
        gm.recompile()
    said = {"are causal: is_causal=True instead": causal, "hide nothing: there is none": everything}
    return tuple(f"attention masks ({count}) that, whatever the input, {what}" for what, count in said.items() if count)


def _argument(node: fx.Node, name: str) -> Any:
    place = _PARAMETERS.index(name)
    return node.args[place] if place < len(node.args) else node.kwargs.get(name, _DEFAULTS.get(name))


def _set(node: fx.Node, name: str, value: object) -> None:
    place = _PARAMETERS.index(name)
    if place < len(node.args):
        node.update_arg(place, value)  # type: ignore[arg-type]
    else:
        node.update_kwarg(name, value)  # type: ignore[arg-type]


def _mask(node: fx.Node) -> Any:
    return _argument(node, "attn_mask")


def _kept(mask: Form) -> Conditions | None:
    """The conditions under which a score takes part, and as it is; None if the mask says something else."""
    element = mask.element
    if not isinstance(element, Choice):
        return None
    keep, hide = (True, False) if mask.dtype is torch.bool else (0.0, float("-inf"))
    if (element.yes, element.no) == (keep, keep if element.is_constant else hide):
        return element.conditions
    if (element.yes, element.no) == (hide, keep) and len(element.conditions) == 1:
        return negated(element.conditions)
    return None


def _sizes(node: fx.Node) -> tuple[Any, ...] | None:
    value = node.meta.get("example_value")
    return tuple(map(expression, value.shape)) if isinstance(value, torch.Tensor) else None


def _fits(mask: Form, node: fx.Node) -> bool:
    """Whether the mask stands for the scores and nothing more: it does not widen a batch."""
    query, key = (_sizes(_argument(node, name)) for name in ("query", "key"))
    if query is None or key is None or not 2 <= len(mask.shape) <= len(query) == len(key):
        return False
    scores = (*query[:-1], key[-2])
    return all(size in (1, score) for size, score in zip(reversed(mask.shape), reversed(scores), strict=False))


def _is_causal(kept: Conditions, mask: Form, node: fx.Node) -> bool:
    query, key = _sizes(_argument(node, "query")), _sizes(_argument(node, "key"))
    assert query is not None
    assert key is not None
    rows, columns = len(mask.shape) - 2, len(mask.shape) - 1
    square = query[-2] == key[-2] == mask.shape[rows] == mask.shape[columns]
    return square and kept == {along(rows).plus(along(columns), -1)}


def _made_of(mask: fx.Node, forms: Mapping[fx.Node, Form]) -> set[fx.Node]:
    """The mask and all that its formula was read from."""
    found, todo = {mask}, [mask]
    while todo:
        for node in todo.pop().all_input_nodes:
            if node in forms and node not in found:
                found.add(node)
                todo.append(node)
    return found


def _may_change(tensors: Collection[fx.Node], graph: fx.Graph) -> bool:
    """Whether an operator may write to the memory of one of the tensors."""
    memory = {address for node in tensors for address in _memory(node)}
    return any(
        not memory.isdisjoint(_memory(operand))
        for node in graph.nodes
        if node.op != "output" and not only_reads(node) and not _reads(node)
        for operand in node.all_input_nodes
    )


def _reads(node: fx.Node) -> bool:
    if node.target is F.embedding:  # with a largest norm, it scales the rows it reads
        return (node.args[3] if len(node.args) > 3 else node.kwargs.get("max_norm")) is None
    return node.target in _READERS and "out" not in node.kwargs


def _memory(node: fx.Node) -> set[int]:
    """The memory of what the node returns, as the tensors that it was traced with share it."""
    tensors = [v for v in pytree.tree_leaves(node.meta.get("example_value")) if type(v) is FakeTensor]
    return {t.untyped_storage()._cdata for t in tensors if t.layout is torch.strided}
