"""One ATen call as a rule sees it: arguments by their names in the schema, tensors as values; and the rule table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeAlias

import torch

from akg_dynamo.agents.designer.prims import Number, Prim, as_stored, compute_dtype
from akg_dynamo.agents.designer.sizes import Poly, Size, parse_dim
from akg_dynamo.agents.designer.values import V, value_of
from akg_dynamo.agents.sketch.ast import DType
from akg_dynamo.core.types import Arg, OpNode, Ref, SymInt, TensorSpec

Result: TypeAlias = "V | Sequence[V | None]"
Rule: TypeAlias = "Callable[[Call], Result]"
RULES: dict[str, Rule] = {}


class NoRule(Exception):
    """An operator, or a form of one, that has no decomposition here."""


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register the rule of some operators, by their names without overload."""

    def register(f: Rule) -> Rule:
        for name in names:
            RULES[name] = f
        return f

    return register


def base_name(target: str) -> str:
    """ "add" for "aten.add.Tensor"."""
    parts = target.split(".")
    return parts[1] if len(parts) >= 2 and parts[0] == "aten" else target


@cache
def _schema(target: str) -> tuple[tuple[str, Any, bool], ...]:
    """(name, default, is a tensor) per argument."""
    parts = target.split(".")
    if len(parts) < 2 or parts[0] != "aten":
        raise NoRule(target)
    packet = getattr(torch.ops.aten, parts[1])
    overload = getattr(packet, parts[2] if len(parts) > 2 else "default")
    return tuple(
        (a.name, a.default_value if a.has_default_value() else None, "Tensor" in str(a.type))
        for a in overload._schema.arguments
    )


class Call:
    """A node with its arguments resolved. numerics: as in the options."""

    def __init__(
        self, node: OpNode, values: Sequence[Prim | tuple[Prim | None, ...]], numerics: str = "bounded"
    ) -> None:
        self.node = node
        self.numerics = numerics
        self._values = values
        self.name = base_name(node.target)
        self.specs: tuple[TensorSpec | None, ...] = node.out if isinstance(node.out, tuple) else (node.out,)
        schema = _schema(node.target)
        given = dict(node.kwargs)
        self.args: dict[str, Any] = {}
        for position, (name, default, _) in enumerate(schema):
            if position < len(node.args):
                self.args[name] = self._resolve(node.args[position])
            elif name in given:
                self.args[name] = self._resolve(given[name])
            else:
                self.args[name] = default

    def _resolve(self, arg: Arg) -> Any:
        if isinstance(arg, Ref):
            value = self._values[arg.index]
            return [V(p) if p is not None else None for p in value] if isinstance(value, tuple) else V(value)
        if isinstance(arg, SymInt):
            return parse_dim(arg.expr)
        if isinstance(arg, tuple):
            return [self._resolve(a) for a in arg]
        return arg

    def __getitem__(self, name: str) -> Any:
        return self.args[name]

    def get(self, name: str, default: Any = None) -> Any:
        """An argument that not every overload has."""
        found = self.args.get(name)
        return default if found is None else found

    @property
    def shape(self) -> tuple[Size, ...]:
        """The shape of the (first) result."""
        return self.shape_of(0)

    @property
    def dtype(self) -> DType:
        """The compute dtype of the (first) result."""
        return self.dtype_of(0)

    def shape_of(self, k: int) -> tuple[Size, ...]:
        """The shape of result k."""
        spec = self.specs[k]
        assert spec is not None
        return tuple(parse_dim(d) for d in spec.shape)

    def dtype_of(self, k: int) -> DType:
        """The compute dtype of result k."""
        spec = self.specs[k]
        assert spec is not None
        return compute_dtype(DType.from_torch_name(spec.dtype))

    @property
    def on_cuda(self) -> bool:
        """Whether it runs on a CUDA device, where some of torch's kernels have other formulas."""
        return any(spec is not None and spec.device.startswith("cuda") for spec in self.specs)

    def wants(self, k: int) -> bool:
        """Whether result k exists."""
        return k < len(self.specs) and self.specs[k] is not None

    def operands(self) -> list[Any]:
        """The values and numbers among the arguments, in order."""
        return [a for a in self.args.values() if isinstance(a, V | bool | int | float | Poly)]

    def value(self, name: str, dtype: DType | None = None) -> V:
        """A tensor (or number) argument converted to the result's compute dtype."""
        found = self.args[name]
        if found is None:
            raise NoRule(f"{self.node.target} without {name}")
        return value_of(found, dtype or self.dtype).to(dtype or self.dtype)

    def raw(self, name: str) -> V:
        """A tensor argument as it is."""
        found = self.args[name]
        if not isinstance(found, V):
            raise NoRule(f"{self.node.target}: {name} is no tensor")
        return found

    def term(self, name: str) -> V:
        """An operand of a sum. In eager's kernel for CPUs, as in no other, a number has been rounded to the dtype."""
        found, spec = self.value(name), self.specs[0]
        if self.numerics != "eager" or self.on_cuda or spec is None or not isinstance(self.args[name], float):
            return found
        return V(as_stored(found.prim, DType.from_torch_name(spec.dtype)))

    def maybe(self, name: str, dtype: DType | None = None) -> V | None:
        """The same, for an argument that may be None or missing."""
        return None if self.args.get(name) is None else self.value(name, dtype)

    def dims(self, rank: int, name: str = "dim") -> list[int]:
        """A dim or list of dims, normalised; all of them when there is none."""
        given = self.args.get(name)
        if given is None or (isinstance(given, list) and not given):
            return list(range(rank))
        listed = given if isinstance(given, list | tuple) else [given]
        return sorted({d % rank for d in listed}) if rank else []

    def common(self, *names: str) -> list[V]:
        """Arguments converted to the dtype torch promotes them to (for comparisons: the result says nothing of it)."""
        given = [self.args[n] for n in names]
        dtype = promoted(given)
        return [value_of(a, dtype).to(dtype) for a in given]


def promoted(operands: Sequence[V | Number | Poly]) -> DType:
    """The compute dtype of torch's type promotion: dimensioned tensors before 0-dim ones before numbers."""
    groups: tuple[list[DType], ...] = ([], [], [])
    for o in operands:
        if isinstance(o, V):
            groups[0 if o.shape else 1].append(o.dtype)
        else:
            groups[2].append(DType.BOOL if isinstance(o, bool) else DType.F32 if isinstance(o, float) else DType.I64)
    best: DType | None = None
    for group in groups:
        if not group:
            continue
        joined = group[0]
        for dtype in group[1:]:
            joined = _joined(joined, dtype)
        if best is None or _category(joined) > _category(best):
            best = joined
    assert best is not None
    return best


def _category(dtype: DType) -> int:
    return 2 if dtype.is_float else 0 if dtype is DType.BOOL else 1


def _joined(a: DType, b: DType) -> DType:
    if _category(a) != _category(b):
        return max(a, b, key=_category)
    if DType.U8 in (a, b) and DType.I8 in (a, b):
        return DType.I16
    return max(a, b, key=lambda d: d.size_bytes)
