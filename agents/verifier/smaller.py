"""A large static subgraph's smaller relatives: the same operators on smaller dims, for what sizes do not change.

Generated device code takes sizes as arguments: one object serves the subgraph of 16 million elements and its relative
of a hundred thousand. What a kernel does with NaN, with ties or with magnitudes apart can be tried on the small one.

A subgraph names sizes in many places: shapes, strides, the arguments of views and slices. All of them are replaced
alike, by value; whether the result is still a subgraph is then seen by running it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import combinations

import torch

from akg_dynamo.agents.verifier.inputs import computes_positions
from akg_dynamo.agents.verifier.shapes import elements, storage_elements
from akg_dynamo.core.types import Arg, Dim, OpNode, Subgraph, TensorSpec, TorchConst
from akg_dynamo.fusion.reference import reference

_LEAST_SIZE = 32  # smaller dims are heads, channels, pairs: they stay while larger ones can go
_LEAST_ALONE = 4
_PARTS = 8  # a slice may take one of so many equal parts of a dim
# No multiples of a vector's lanes, so that there are tails; but of 8, for halves, quarters and packed rows.
_SIZES = (2, 3, 8, 24, 40, 72, 120, 168, 264, 360, 552, 1032, 1560, 2088, 4104, 6168, 8232, 16_408, 32_808, 65_640)


def relatives(sub: Subgraph, most_elements: int) -> Iterator[Subgraph]:
    """Smaller subgraphs with the same operators, the most telling first; none for symbolic ones, which have members.

    There are several because what is generated depends on sizes here and there: on whether two are equal, whether a
    row is long enough to be summed in blocks, whether there are rows enough for all threads.
    """
    if sub.symbols:
        return
    dims = sorted({d for spec in sub.inputs for d in spec.shape if isinstance(d, int) and d >= _LEAST_ALONE})
    large = [d for d in dims if d >= _LEAST_SIZE]
    seen = {sub.text}
    for chosen in (large, *([d] for d in reversed(dims)), *(large[:k] + large[k + 1 :] for k in range(len(large)))):
        for skipped in (0, 1) if len(chosen) > 1 else (0,):
            small = _with_tails(sub, dims, chosen, skipped, most_elements)
            if small is not None and small.text not in seen:
                seen.add(small.text)
                yield small
    halved = _halved(sub, dims, most_elements)
    if halved is not None and halved.text not in seen:
        yield halved


def _with_tails(sub: Subgraph, dims: list[int], chosen: list[int], skipped: int, most_elements: int) -> Subgraph | None:
    """The chosen dims take sizes from the list, the larger ones the larger, with `skipped` unused between two."""
    for ceiling in reversed(range(len(_SIZES))):
        sizes = {d: d for d in dims}
        left = list(_SIZES[: ceiling + 1])
        for d in reversed(chosen):
            while left and left[-1] >= d:
                left.pop()
            if left:
                sizes[d] = left.pop()
                del left[len(left) - skipped :]
        small = resized(sub, sizes)
        if elements(small, {}) <= most_elements:
            return small if _holds(small) else None
    return None


def _halved(sub: Subgraph, dims: list[int], most_elements: int) -> Subgraph | None:
    """Dims are halved, the largest first, with one more where it depends on it: what divides what still does."""
    sizes = {d: d for d in dims}
    small = sub
    while elements(small, {}) > most_elements:
        order = sorted((d for d in dims if sizes[d] % 2 == 0 and sizes[d] >= _LEAST_SIZE), key=lambda d: -sizes[d])
        for together in [*((d,) for d in order), *combinations(order, 2), tuple(order)]:
            halved = {d: s // 2 if d in together else s for d, s in sizes.items()}
            tried = resized(sub, halved)
            if together and _holds(tried):
                sizes, small = halved, tried
                break
        else:
            return None
    return small


def resized(sub: Subgraph, dims: Mapping[int, int]) -> Subgraph:
    """The subgraph with every number of elements in it under the map: dims, products of dims, equal parts of dims."""
    sizes = dict(dims)
    specs = [*sub.inputs, *(s for n in sub.nodes for s in (n.out if isinstance(n.out, tuple) else (n.out,)) if s)]
    for spec in specs:  # dims that a view has joined
        known = [d for d in spec.shape if isinstance(d, int)]
        for i in range(len(known)):
            for j in range(i + 2, len(known) + 1):
                sizes.setdefault(math.prod(known[i:j]), math.prod(sizes.get(d, d) for d in known[i:j]))

    def of(value: int) -> int:
        if value in sizes or value < _LEAST_ALONE:
            return sizes.get(value, value)
        for d, size in dims.items():
            if d % value == 0 and d // value <= _PARTS and size % (d // value) == 0:
                return size * value // d
        return value

    def spec_of(s: TensorSpec) -> TensorSpec:
        shape, stride = _ints(s.shape), _ints(s.stride)
        found = list(stride)
        before = (1, 1)  # what one more element along the last dim looked at would be, then and now
        for d in sorted(range(len(shape)), key=lambda d: (stride[d], shape[d])):
            if stride[d] and stride[d] % before[0] == 0:
                found[d] = before[1] * (stride[d] // before[0])
                before = (stride[d] * shape[d], found[d] * of(shape[d]))
        return replace(s, shape=tuple(map(of, shape)), stride=tuple(found))

    def arg(a: Arg) -> Arg:
        if isinstance(a, tuple):
            return tuple(map(arg, a))
        return of(a) if isinstance(a, int) and not isinstance(a, bool) else a

    def node(n: OpNode) -> OpNode:
        out = tuple(s and spec_of(s) for s in n.out) if isinstance(n.out, tuple) else spec_of(n.out)
        return OpNode(n.target, tuple(map(arg, n.args)), tuple((k, arg(v)) for k, v in n.kwargs), out)

    return Subgraph(tuple(map(spec_of, sub.inputs)), (), tuple(map(node, sub.nodes)), sub.outputs)


def _holds(sub: Subgraph) -> bool:
    """Whether every operator gives what the subgraph says it gives, by its meta function, and takes its positions."""
    n = len(sub.inputs)
    made = tuple(n + i for i, node in enumerate(sub.nodes) if isinstance(node.out, TensorSpec))
    nodes = tuple(replace(node, kwargs=tuple((k, _on_meta(v)) for k, v in node.kwargs)) for node in sub.nodes)
    arguments = [
        torch.empty_strided(_ints(s.shape), _ints(s.stride), dtype=getattr(torch, s.dtype), device="meta")
        for s in sub.inputs
    ]
    try:
        with torch.no_grad():
            values = reference(replace(sub, nodes=nodes, outputs=made))(*arguments)
    except (RuntimeError, IndexError, ValueError, TypeError, ZeroDivisionError):
        return False
    fits = all(_is(sub.spec_of(v), value) for v, value in zip(made, values, strict=True))
    return fits and (not computes_positions(sub) or _takes_positions(sub))


def _takes_positions(sub: Subgraph) -> bool:
    """Whether positions that are made in the graph are still in range: those counted up to one size may index another.

    Meta functions do not look at values, so it is run, on inputs of 0.
    """
    storages = [
        torch.zeros(storage_elements(_ints(s.shape), _ints(s.stride)), dtype=getattr(torch, s.dtype))
        for s in sub.inputs
    ]
    views = [t.as_strided(_ints(s.shape), _ints(s.stride)) for t, s in zip(storages, sub.inputs, strict=True)]
    try:
        with torch.no_grad():
            reference(sub)(*views)
    except (RuntimeError, IndexError):
        return False
    return True


def _on_meta(arg: Arg) -> Arg:
    return TorchConst("device('meta')") if isinstance(arg, TorchConst) and arg.text.startswith("device(") else arg


def _ints(dims: tuple[Dim, ...]) -> tuple[int, ...]:
    return tuple(d for d in dims if isinstance(d, int))


def _is(spec: object, value: torch.Tensor) -> bool:
    assert isinstance(spec, TensorSpec)
    shape, stride = _ints(spec.shape), _ints(spec.stride)
    if tuple(value.shape) != shape or value.dtype != getattr(torch, spec.dtype):
        return False
    return 0 in shape or all(n == 1 or a == b for n, a, b in zip(shape, value.stride(), stride, strict=True))
