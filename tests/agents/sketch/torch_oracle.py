"""A second interpreter for tests, in torch, that shares nothing with the first but the syntax tree.

It runs every tiled loop as one tile over the whole extent. The meaning of a sketch does not depend on its tile sizes,
so it must agree with the real interpreter on everything but what counts tiles.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from akg_dynamo.agents.sketch import ast as a
from akg_dynamo.agents.sketch.ast import DType
from akg_dynamo.agents.sketch.numerics import numpy_dtype
from akg_dynamo.agents.sketch.ops import OPS, Rule

Value = tuple[torch.Tensor, tuple[str, ...]]

NAMES: dict[str, Callable[..., torch.Tensor]] = {
    "floordiv": torch.floor_divide, "mod": torch.remainder,
    "truncdiv": lambda x, y: torch.div(x, y, rounding_mode="trunc"),
    "and": torch.bitwise_and, "or": torch.bitwise_or, "xor": torch.bitwise_xor, "not": torch.bitwise_not,
    "shl": torch.bitwise_left_shift, "shr": torch.bitwise_right_shift,
    "fma": lambda x, y, z: (x.double() * y.double() + z.double()).to(x.dtype),
}  # fmt: skip


def torch_dtype(dtype: DType) -> torch.dtype:
    found = getattr(torch, dtype.torch_name)
    assert isinstance(found, torch.dtype)
    return found


def to_torch(x: np.ndarray[Any, Any]) -> torch.Tensor:
    x = np.array(x, order="C")
    if x.dtype == numpy_dtype(DType.BF16):
        return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(x)


def from_torch(t: torch.Tensor) -> np.ndarray[Any, Any]:
    if t.dtype is torch.bfloat16:
        return t.contiguous().view(torch.int16).numpy().view(numpy_dtype(DType.BF16))
    return t.contiguous().numpy()


class TorchOracle:
    """Runs once; `tensors` then holds what was stored."""

    def __init__(self, sketch: a.Sketch, arrays: dict[str, np.ndarray[Any, Any]], symbols: dict[str, int]) -> None:
        self.ints = dict(symbols) | {c.name: c.value for c in sketch.constexprs}
        self.axes: dict[str, tuple[int, int]] = {}
        self.tiles: dict[str, Value] = {}
        self.tensors: dict[str, torch.Tensor] = {}
        for t in sketch.tensors:
            shape = [self.int(d) for d in t.shape]
            self.tensors[t.name] = torch.zeros(shape, dtype=torch_dtype(t.dtype))
            if t.kind == "in":
                self.tensors[t.name] = to_torch(arrays[t.name])
        self.body(sketch.body)

    def int(self, e: a.IntExpr) -> int:
        if isinstance(e, a.IntConst):
            return e.value
        if isinstance(e, a.IntVar):
            return self.ints[e.name]
        x, y = self.int(e.a), self.int(e.b)
        table = {"+": x + y, "-": x - y, "*": x * y, "min": min(x, y), "max": max(x, y)}
        return table[e.op] if e.op in table else (x // y if e.op == "//" else x % y)

    def body(self, body: tuple[a.Stmt, ...]) -> None:
        for s in body:
            if isinstance(s, a.Assign):
                self.tiles[s.name] = self.expr(s.value)
            elif isinstance(s, a.Alloc):
                axes = tuple(x for x in self.axes if x in s.axes)
                shape = [self.axes[x][1] for x in axes]
                self.tiles[s.name] = (torch.full(shape, s.init, dtype=torch_dtype(s.dtype)), axes)
            elif isinstance(s, a.Store):
                self.store(s)
            elif isinstance(s, a.For) and s.step is None:
                for n in range(self.int(s.start), self.int(s.stop)):
                    self.ints[s.var] = n
                    self.body(s.body)
            else:
                start = self.int(s.start)
                self.ints[s.var] = start
                self.axes[s.var] = (start, self.int(s.stop) - start)
                if isinstance(s, a.For):
                    self.body(s.body)
                    del self.axes[s.var]

    def aligned(self, value: Value, axes: tuple[str, ...]) -> torch.Tensor:
        tensor, own = value
        return tensor[tuple(slice(None) if x in own else None for x in axes)] if axes else tensor

    def union(self, values: list[Value]) -> tuple[str, ...]:
        return tuple(x for x in self.axes if any(x in own for _, own in values))

    def lanes(self, axis: str) -> torch.Tensor:
        start, count = self.axes[axis]
        return torch.arange(start, start + count)

    def indices(self, ref: a.TensorRef) -> tuple[list[torch.Tensor], tuple[str, ...]]:
        found: list[Value] = []
        for i in ref.indices:
            if isinstance(i, a.At):
                found.append((torch.tensor(self.int(i.index)), ()))
            elif isinstance(i, a.Gather):
                found.append((self.tiles[i.tile][0].long(), self.tiles[i.tile][1]))
            else:
                found.append((self.lanes(i.axis) + self.int(i.shift), (i.axis,)))
        axes = self.union(found)
        return [self.aligned(v, axes) for v in found], axes

    def store(self, s: a.Store) -> None:
        target = self.tensors[s.ref.name]
        index, axes = self.indices(s.ref)
        value = self.expr(s.value) if not isinstance(s.value, a.Literal) else (torch.tensor(s.value.value), ())
        full = self.aligned(value, axes).to(target.dtype)
        if index:
            target[tuple(index)] = full
        else:
            target.copy_(full)

    def load(self, e: a.Load) -> Value:
        source = self.tensors[e.ref.name]
        index, axes = self.indices(e.ref)
        live = torch.tensor(True)
        for i, size in zip(index, source.shape, strict=True):
            live = live & (i >= 0) & (i < size)
        safe = [i.clamp(0, max(size - 1, 0)) for i, size in zip(index, source.shape, strict=True)]
        data = source[tuple(safe)] if safe else source.clone()
        value: Value = (torch.where(live, data, torch.tensor(e.other, dtype=source.dtype)), axes)
        if e.where is None:
            return value
        mask = self.expr(e.where)
        axes = self.union([value, mask])
        other = torch.tensor(e.other, dtype=source.dtype)
        return torch.where(self.aligned(mask, axes), self.aligned(value, axes), other), axes

    def expr(self, e: a.TileExpr) -> Value:
        if isinstance(e, a.Name):
            return self.tiles[e.name]
        if isinstance(e, a.Literal):
            assert e.dtype is not None
            return torch.tensor(e.value, dtype=torch_dtype(e.dtype)), ()
        if isinstance(e, a.IndexValue):
            return torch.tensor(self.int(e.expr)), ()
        if isinstance(e, a.Lanes):
            return self.lanes(e.axis), (e.axis,)
        if isinstance(e, a.Load):
            return self.load(e)
        if isinstance(e, a.Op):
            return self.op(e)
        if isinstance(e, a.Cast):
            x, axes = self.expr(e.x)
            return x.to(torch_dtype(e.dtype)), axes
        if isinstance(e, a.Dot):
            left, right = self.expr(e.a), self.expr(e.b)
            axes = self.union([left, right])
            wide = left[0].dtype if left[0].dtype is torch.float64 else torch.float32
            at = axes.index(e.axis)
            product = self.aligned(left, axes).double() * self.aligned(right, axes).double()
            return product.sum(at).to(wide), axes[:at] + axes[at + 1 :]
        x, axes = self.expr(e.x)
        at = axes.index(e.axis)
        if isinstance(e, a.Scan):
            found = getattr(torch, f"cum{e.op}")(x, at)
            return (found if isinstance(found, torch.Tensor) else found.values).to(x.dtype), axes
        rest = axes[:at] + axes[at + 1 :]
        if e.op in ("sum", "prod"):
            return getattr(torch, e.op)(x, at, dtype=x.dtype), rest
        reduced = getattr(torch, {"max": "amax", "min": "amin"}.get(e.op, e.op))(x, at)
        return (reduced + self.axes[e.axis][0] if e.op.startswith("arg") else reduced), rest

    def op(self, e: a.Op) -> Value:
        select = OPS[e.name].rule is Rule.SELECT
        known = [None if isinstance(x, a.Literal) and x.dtype is None else self.expr(x) for x in e.args]
        dtype = next(v[0].dtype for v in known[int(select) :] if v is not None)
        values: list[Value] = []
        for x, v in zip(e.args, known, strict=True):
            if v is None:
                assert isinstance(x, a.Literal)
                v = (torch.tensor(x.value, dtype=dtype), ())
            values.append(v)
        axes = self.union(values)
        args = [self.aligned(v, axes) for v in values]
        if OPS[e.name].name in ("maximum", "minimum") and dtype is torch.bool:
            return (args[0] | args[1] if e.name == "maximum" else args[0] & args[1]), axes
        return (NAMES.get(e.name) or getattr(torch, e.name))(*args), axes
