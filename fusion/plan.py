"""What the partitioner decides, and its contract: every node has a tag or a reason, and no kernel waits for itself."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import fx

from akg_dynamo.core.types import SplitReason, SplitReasonType
from akg_dynamo.fusion.ops import OpKind, classify


@dataclass(frozen=True)
class FusionPlan:
    """Tags for the nodes that kernels compute; reasons for the nodes that torch runs. Together they cover the graph.

    copies: views and constants that are also computed inside these subgraphs, whether torch runs them (a reason) or not
        (a tag).
    """

    tags: dict[fx.Node, int]
    reasons: dict[fx.Node, SplitReason]
    copies: dict[fx.Node, tuple[int, ...]] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many subgraphs."""
        return len(set(self.tags.values()))


def without(graph: fx.Graph, plan: FusionPlan, tag: int) -> FusionPlan:
    """The plan with one subgraph given back to torch."""
    reason = SplitReason(SplitReasonType.UNSUPPORTED, "a kernel would have to run before what it reads")
    refused: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        follows = node in plan.copies or classify(node) is OpKind.SYMBOLIC
        if plan.tags.get(node) == tag or (node in plan.tags and follows and not refused.isdisjoint(node.users)):
            refused.add(node)  # of what only kernels read, torch now needs some
    copies = {n: kept for n, tags in plan.copies.items() if (kept := tuple(t for t in tags if t != tag))}
    return FusionPlan(
        {n: t for n, t in plan.tags.items() if n not in refused},
        {**plan.reasons, **dict.fromkeys(refused, reason)},
        copies,
    )


def cyclic_tags(graph: fx.Graph, plan: FusionPlan) -> set[int]:
    """The tags on or behind a cycle of the contracted graph: none, if all is well (Kahn's algorithm).

    Also checks the plan's contract: every node has a tag or a reason, never both.
    """
    item: dict[fx.Node, object] = {n: plan.tags.get(n, n) for n in graph.nodes}
    after: dict[object, list[object]] = {}
    waiting: dict[object, int] = dict.fromkeys(item.values(), 0)
    for node in graph.nodes:
        assert (node in plan.tags) != (node in plan.reasons), f"{node} has a tag and a reason, or neither"
        inside = node in plan.tags
        if inside and classify(node) is OpKind.SYMBOLIC:
            continue
        for p in node.all_input_nodes:
            if inside and isinstance(p.meta.get("val"), torch.SymInt):
                continue  # a kernel gets its sizes from the placeholders
            if item[p] == item[node] or (inside and plan.tags[node] in plan.copies.get(p, ())):
                continue
            after.setdefault(item[p], []).append(item[node])
            waiting[item[node]] += 1
    ready = [i for i, n in waiting.items() if not n]
    while ready:
        i = ready.pop()
        for j in after.get(i, ()):
            waiting[j] -= 1
            if not waiting[j]:
                ready.append(j)
    return {i for i, n in waiting.items() if n and isinstance(i, int)}
