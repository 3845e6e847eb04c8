"""What the partitioner's cost model knows of a node: bytes, loops, and how it reduces. From hints: it adds no guard."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from torch import fx

from akg_dynamo.fusion.ops import EXPENSIVE, OpKind, base_name, tensors_of
from akg_dynamo.fusion.symbols import hint, numel_hint

# Pattern of a reduction: runs of kept and reduced sizes, in order. Views that merge or split dims leave it as it is.
Pattern = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Facts:
    """domain: elements that its loops run over. patterns: how it reduces them."""

    domain: int
    out_bytes: int
    patterns: frozenset[Pattern]
    expensive: bool


LEAST_ELEMENTS = 64
"""Of one or two operators, for the profit gate to try a kernel.

Calling a kernel costs less than calling one of torch's operators, on the CPU and on a GPU: however little they compute,
one call less may pay, and the judge finds out. Below this it is bookkeeping (a step counter, a flag), where building a
kernel costs more than a program ever saves.
"""


def bytes_of(value: object) -> int:
    """Bytes of a node's value, all its outputs together."""
    return sum(numel_hint(t.shape) * t.element_size() for t in tensors_of(value))


def _pattern(shape: Iterable[int], reduced: set[int]) -> Pattern:
    runs: list[tuple[str, int]] = []
    for i, size in enumerate(shape):
        kind = "r" if i in reduced else "k"
        if size == 1:
            continue
        if runs and runs[-1][0] == kind:
            runs[-1] = (kind, runs[-1][1] * size)
        else:
            runs.append((kind, size))
    return tuple(runs)


def facts_of(node: fx.Node, kind: OpKind) -> Facts:
    """The facts of a node that computes."""
    outs = list(tensors_of(node.meta["val"]))
    ins = [t for p in node.all_input_nodes for t in tensors_of(p.meta["val"])]
    domain = max((numel_hint(t.shape) for t in outs), default=1)
    patterns: frozenset[Pattern] = frozenset()
    norm = kind is OpKind.NORM and not base_name(node.target).endswith("no_training")  # that takes means as they are
    if kind is OpKind.REDUCTION or norm:
        domain = max([domain, *(numel_hint(t.shape) for t in ins)])
        main = max(ins, key=lambda t: numel_hint(t.shape))
        shape = [hint(s) for s in main.shape]
        patterns = frozenset({_pattern(shape, _reduced_dims(node, kind, main.dim()))}) - {()}
        if all(k == "k" for p in patterns for k, _ in p):
            patterns = frozenset()
    return Facts(domain, bytes_of(outs), patterns, base_name(node.target) in EXPENSIVE or norm)


def _reduced_dims(node: fx.Node, kind: OpKind, rank: int) -> set[int]:
    name = base_name(node.target)
    everything = set(range(rank))
    if kind is OpKind.NORM:
        if "softmax" in name:
            dim = node.args[2] if name.endswith("backward_data") else node.args[1]
            return {dim % max(rank, 1)} if isinstance(dim, int) else everything
        if "batch_norm" in name:
            return everything - {1}
        if "group_norm" in name:
            return set(range(1, rank))
        if "layer_norm" in name or "rms_norm" in name:
            normalized = node.args[2] if "backward" in name else node.args[1]
            return set(range(rank - len(normalized), rank)) if isinstance(normalized, list | tuple) else everything
        shrinks = all(numel_hint(t.shape) == 1 for t in tensors_of(node.meta["val"]))
        return everything if shrinks else set()
    if name in ("mm", "bmm"):  # of one row or column: along the larger operand
        columns = hint(next(tensors_of(node.meta["val"])).shape[-1])
        return {rank - 1 if columns == 1 else rank - 2}
    position = 2 if name in ("linalg_vector_norm", "norm") else 1
    dim = node.args[position] if len(node.args) > position else node.kwargs.get("dim")
    if isinstance(dim, int):
        return {dim % max(rank, 1)}
    if isinstance(dim, list | tuple) and dim:
        return {d % max(rank, 1) for d in dim if isinstance(d, int)}
    return everything


def _size(pattern: Pattern) -> int:
    return math.prod(n for _, n in pattern)


def line_up(a: Pattern, b: Pattern) -> bool:
    """Whether one loop nest can carry both reductions, or the smaller is a short epilogue of the larger."""
    if a == b:
        return True
    small, large = sorted((_size(a), _size(b)))
    if small * 4 <= large:
        return True
    whole = any(len(p) == 1 and p[0][0] == "r" for p in (a, b))
    return whole and small == large
