"""Which output of a sketch may lie in the memory of which input.

    store(maximum(load(x[i, j:j+BN]) + load(b[j:j+BN]), 0.0) -> y[i, j:j+BN])      y may be x

An element of such an input is read only in the iteration that stores the output's element of the same index, and only
for the value that is stored: in whatever order a lowering takes iterations and lanes, what it overwrites has been read.
That is certain of elementwise sketches, with one store and nothing that collects values; others have no pairs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from akg_dynamo.agents.sketch import ast as sk

_Loops = tuple[sk.For, ...]


def in_place(sketch: sk.Sketch) -> tuple[tuple[str, str], ...]:
    """Pairs of names: an output, and an input whose memory it may be given."""
    found = list(_walk(sketch.body, ()))
    stores = [(node, loops) for node, loops in found if isinstance(node, sk.Store)]
    names = [node.name for node, _ in found if isinstance(node, sk.Assign)]
    carries = len(names) != len(set(names))  # a name that a loop carries is bound before it and in it
    if len(stores) != 1 or carries or any(_collects(node) for node, _ in found):
        return ()
    ((store, around),) = stores
    if not _once_per_element(store, around):
        return ()
    output = next(t for t in sketch.tensors if t.name == store.ref.name)
    layout = (output.shape, output.strides, output.dtype)
    elsewhere = {
        node.ref.name
        for node, loops in found
        if isinstance(node, sk.Load) and (node.ref.indices, loops) != (store.ref.indices, around)
    }
    return tuple(
        (output.name, t.name)
        for t in sketch.tensors
        if t.kind == "in" and (t.shape, t.strides, t.dtype) == layout and t.name not in elsewhere
    )


def _walk(body: tuple[sk.Stmt, ...], loops: _Loops) -> Iterator[tuple[Any, _Loops]]:
    """All that the statements consist of, with the loops around it."""
    for stmt in body:
        if isinstance(stmt, sk.For):
            yield from _walk(stmt.body, (*loops, stmt))
        else:
            yield from ((node, loops) for node in _nodes(stmt))


def _nodes(node: Any) -> Iterator[Any]:
    if isinstance(node, tuple):
        for item in node:
            yield from _nodes(item)
    elif dataclasses.is_dataclass(node):
        yield node
        for part in dataclasses.fields(node):
            yield from _nodes(getattr(node, part.name))


def _collects(node: Any) -> bool:
    """Whether it takes values of several elements together, or reports on all of them."""
    return isinstance(node, sk.Alloc | sk.Reduce | sk.Scan | sk.Dot) or (
        isinstance(node, sk.Op) and node.name == "checked"
    )


def _once_per_element(store: sk.Store, loops: _Loops) -> bool:
    """Whether every loop around the store is one of its indices, as it stands: no element is stored twice."""
    indices = {index.axis for index in store.ref.indices if isinstance(index, sk.Span)}
    indices |= {i.index.name for i in store.ref.indices if isinstance(i, sk.At) and isinstance(i.index, sk.IntVar)}
    return {loop.var for loop in loops} <= indices
