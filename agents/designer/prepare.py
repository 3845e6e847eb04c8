"""Values as a GPU wants them computed: equal ones once, and sums of f32 in f32.

The rules build every value anew: a mean, and the mean inside a variance, are two reductions. Here they become one.

The algorithms ask for sums of f32 in f64, which on a CPU costs little. A GPU adds up in trees and in many partial sums,
which is accurate in f32, and its f64 units are few: there the whole expression from such a sum to where it is rounded
is computed in f32. Sums of f64 values stay what they are.

    before   sum: f64 (of f32) -> div by a size: f64 -> cast to f32
    after    sum: f32          -> div by a size: f32
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from akg_dynamo.agents.designer.prims import Prim, Storage, cast
from akg_dynamo.agents.sketch.ast import DType

Outputs = Sequence[tuple[Prim, Storage]]


def prepared(outputs: Outputs) -> list[tuple[Prim, Storage]]:
    """The same outputs, with equal values computed once, and without f64 sums of f32 values."""
    rewriter = _Rewriter()
    return [(rewriter.rewrite(prim), storage) for prim, storage in outputs]


class _Rewriter:
    def __init__(self) -> None:
        self._done: dict[Prim, Prim] = {}
        self._known: dict[object, Prim] = {}
        self._narrow: set[Prim] = set()  # what was f64 and is now f32

    def rewrite(self, root: Prim) -> Prim:
        """The value, rewritten (without recursion: chains may be long)."""
        stack = [(root, False)]
        while stack:
            prim, ready = stack.pop()
            if prim in self._done:
                continue
            if ready:
                self._done[prim] = self._rebuilt(prim, [self._done[a] for a in prim.args])
            else:
                stack.append((prim, True))
                stack.extend((a, False) for a in prim.args)
        return self._done[root]

    def _rebuilt(self, prim: Prim, args: list[Prim]) -> Prim:
        if prim.kind == "reduce" and prim.dtype is DType.F64 and args[0].dtype is DType.F32:
            return self._narrowed(replace(prim, args=tuple(args), dtype=DType.F32))
        small = [a in self._narrow for a in args]
        if not any(small):
            same = all(a is b for a, b in zip(args, prim.args, strict=True))
            return self._one(prim if same else replace(prim, args=tuple(args)))
        if prim.kind == "cast":
            return self._one(cast(args[0], prim.dtype))
        kept = [a if s or a.dtype is not DType.F64 else _in_f32(a) for s, a in zip(small, args, strict=True)]
        if any(a is None for a in kept):  # some operand is truly f64
            wide = (self._one(cast(a, DType.F64)) if s else a for s, a in zip(small, args, strict=True))
            return self._one(replace(prim, args=tuple(wide)))
        found = replace(prim, args=tuple(self._one(a) for a in kept if a is not None))
        return self._narrowed(replace(found, dtype=DType.F32)) if prim.dtype is DType.F64 else self._one(found)

    def _narrowed(self, prim: Prim) -> Prim:
        found = self._one(prim)
        self._narrow.add(found)
        return found

    def _one(self, prim: Prim) -> Prim:
        """The one value that is computed like this."""
        attr = id(prim.attr) if isinstance(prim.attr, Storage) else repr(prim.attr)
        key = (prim.kind, prim.shape, prim.dtype, tuple(map(id, prim.args)), attr)
        return self._known.setdefault(key, prim)


def _in_f32(prim: Prim) -> Prim | None:
    """The same value in f32 where that loses nothing that matters: a number, a size, or what was f32 before a cast."""
    if prim.kind in ("const", "size"):
        return cast(prim, DType.F32)
    if prim.kind == "cast":
        source = prim.args[0]
        return source if source.dtype is DType.F32 else cast(source, DType.F32) if source.kind == "size" else None
    if prim.kind in ("expand", "reshape"):
        inner = _in_f32(prim.args[0])
        return None if inner is None else replace(prim, args=(inner,), dtype=DType.F32)
    return None
