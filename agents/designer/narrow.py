"""Sums of f32 values kept in f32.

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


def narrowed(outputs: Sequence[tuple[Prim, Storage]]) -> list[tuple[Prim, Storage]]:
    """The same outputs without f64 sums of f32 values."""
    done: dict[Prim, Prim] = {}
    narrow: set[Prim] = set()  # what was f64 and is now f32
    for root, _ in outputs:
        stack = [(root, False)]
        while stack:
            prim, ready = stack.pop()
            if prim in done:
                continue
            if ready:
                done[prim] = _rebuilt(prim, [done[a] for a in prim.args], narrow)
            else:
                stack.append((prim, True))
                stack.extend((a, False) for a in prim.args)
    return [(done[prim], storage) for prim, storage in outputs]


def _rebuilt(prim: Prim, args: list[Prim], narrow: set[Prim]) -> Prim:
    if prim.kind == "reduce" and prim.dtype is DType.F64 and args[0].dtype is DType.F32:
        found = replace(prim, args=tuple(args), dtype=DType.F32)
        narrow.add(found)
        return found
    small = [a in narrow for a in args]
    if not any(small):
        return prim if all(a is b for a, b in zip(args, prim.args, strict=True)) else replace(prim, args=tuple(args))
    if prim.kind == "cast":
        return cast(args[0], prim.dtype)
    same = [a if s or a.dtype is not DType.F64 else _in_f32(a) for s, a in zip(small, args, strict=True)]
    kept = [a for a in same if a is not None]
    if len(kept) < len(args):  # some operand is truly f64
        return replace(prim, args=tuple(cast(a, DType.F64) if s else a for s, a in zip(small, args, strict=True)))
    found = replace(prim, args=tuple(kept), dtype=DType.F32 if prim.dtype is DType.F64 else prim.dtype)
    if prim.dtype is DType.F64:
        narrow.add(found)
    return found


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
