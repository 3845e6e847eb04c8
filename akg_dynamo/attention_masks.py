"""Attention masks that say the same whatever the input, as what they say.

Under tracing, libraries build the masks that they leave out in eager, and with a mask attention has no flash kernel:

    mask = arange(s)[:, None] >= arange(s)
    sdpa(q, k, v, attn_mask=mask)            sdpa(q, k, v, is_causal=True)
    sdpa(q, k, v, attn_mask=ones(s, s))      sdpa(q, k, v)

Rewritten in Dynamo's graph: AOTAutograd chooses the kernel, and its backward, when it traces attention. That the mask
says so is proved (`closed_form`), for every size that the graph is for, and no guard is added. One that an operator
might change in place is left, and so is attention with dropout, which draws other numbers in other kernels, and one
whose result is read in a way that depends on the kernel (`attention_layout`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from akg_dynamo.attention_layout import Layouts
from akg_dynamo.closed_form import Form, closed_forms
from akg_dynamo.formulas import Choice, Conditions, along, negated
from akg_dynamo.fusion.symbols import expression
from akg_dynamo.writes import memory, suspected

_PARAMETERS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
_DEFAULTS: Mapping[str, object] = {"attn_mask": None, "dropout_p": 0.0, "is_causal": False}


def simplify_attention_masks(gm: fx.GraphModule) -> tuple[str, ...]:
    """Rewrites attention in a Dynamo graph, in place. Returns what was done, for the user to read."""
    masked = [n for n in gm.graph.nodes if n.target is F.scaled_dot_product_attention and _mask(n) is not None]
    if not masked:
        return ()
    forms, written = closed_forms(gm.graph), suspected(gm.graph)
    layouts = Layouts(gm.graph, written)
    everything, causal = 0, 0
    replaced: set[fx.Node] = set()
    for node in masked:
        mask = _mask(node)
        if mask not in forms or _argument(node, "dropout_p") != 0 or _argument(node, "is_causal") is not False:
            continue
        if not _fits(forms[mask], node) or mask.meta["example_value"].requires_grad:
            continue
        kept = _kept(forms[mask])
        if kept is None or (kept and not _is_causal(kept, forms[mask], node)):
            continue
        made_of = _made_of(mask, forms)
        args, kwargs = _without_mask(node, is_causal=bool(kept))
        if any(not written.isdisjoint(memory(n)) for n in made_of) or not layouts.allow(node, args, kwargs):
            continue
        node.args, node.kwargs = args, kwargs
        causal, everything = causal + bool(kept), everything + (not kept)
        replaced |= made_of
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


def _without_mask(node: fx.Node, *, is_causal: bool) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The call's arguments."""
    args = node.args[: _PARAMETERS.index("attn_mask")]
    rest = dict(zip(_PARAMETERS[len(args) :], node.args[len(args) :], strict=False))
    return args, {**rest, **node.kwargs, "attn_mask": None, "is_causal": is_causal}


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
