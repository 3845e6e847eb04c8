"""A subgraph as primitive values: its nodes expanded by the rules, one after the other."""

from __future__ import annotations

import akg_dynamo.agents.designer.composites
import akg_dynamo.agents.designer.pointwise
import akg_dynamo.agents.designer.reductions
import akg_dynamo.agents.designer.structure
import akg_dynamo.agents.designer.windows  # noqa: F401  (each registers its rules)
from akg_dynamo.agents.designer.calls import RULES, Call, NoRule, base_name
from akg_dynamo.agents.designer.prims import Prim, Storage, as_stored, cast, expand, mem
from akg_dynamo.agents.designer.sizes import parse_dim
from akg_dynamo.agents.designer.values import V
from akg_dynamo.agents.sketch.ast import DType
from akg_dynamo.core.types import Ref, Subgraph, TensorSpec


def supported(target: str) -> bool:
    """Whether an operator ("aten.add.Tensor") has a rule. Some forms of it may still be refused, by `NoRule`."""
    return target == "getitem" or base_name(target) in RULES


def storage_of(spec: TensorSpec, kind: str, index: int) -> Storage:
    """A tensor of the subgraph as memory."""
    shape = tuple(parse_dim(d) for d in spec.shape)
    strides = tuple(parse_dim(d) for d in spec.stride)
    return Storage(kind, index, DType.from_torch_name(spec.dtype), shape, strides)


def decompose(sub: Subgraph, numerics: str = "bounded") -> list[tuple[Prim, Storage]]:
    """Every output of the subgraph, as a primitive value and the memory it goes to.

    numerics: as in the options; under "eager" what an operator gives is rounded to its dtype, as eager stores it.
    """
    values: list[Prim | tuple[Prim | None, ...]] = [mem(storage_of(s, "in", i)) for i, s in enumerate(sub.inputs)]
    for node in sub.nodes:
        if node.target == "getitem":
            producer, index = node.args[0], node.args[1]
            assert isinstance(producer, Ref)
            assert isinstance(index, int)
            several = values[producer.index]
            item = several[index] if isinstance(several, tuple) else several
            if item is None:
                raise NoRule(f"getitem {index} of a result that does not exist")
            values.append(item)
            continue
        found = RULES.get(base_name(node.target))
        if found is None:
            raise NoRule(node.target)
        call = Call(node, values, numerics)
        result = found(call)
        if isinstance(result, V):
            values.append(_checked(call, 0, result, numerics))
        else:
            parts = tuple(_checked(call, k, r, numerics) if r is not None else None for k, r in enumerate(result))
            values.append(parts if isinstance(node.out, tuple) else _one(parts))
    outputs = []
    for k, number in enumerate(sub.outputs):
        value = values[number]
        if isinstance(value, tuple):
            raise NoRule("an output that is several tensors")
        outputs.append((value, storage_of(sub.output_specs[k], "out", k)))
    return outputs


def _one(parts: tuple[Prim | None, ...]) -> Prim:
    assert parts[0] is not None
    return parts[0]


def _checked(call: Call, k: int, value: V, numerics: str) -> Prim:
    """The contract of a rule: the result has the dtype and shape the graph says."""
    spec = call.specs[k] if k < len(call.specs) else None
    if spec is None:
        return value.prim
    prim, shape = value.prim, call.shape_of(k)
    if prim.shape != shape:
        if len(prim.shape) != len(shape):
            raise NoRule(f"{call.node.target}: the rule gives {prim.shape}, the graph {shape}")
        prim = expand(prim, shape)
    prim = cast(prim, call.dtype_of(k))
    return as_stored(prim, DType.from_torch_name(spec.dtype)) if numerics == "eager" else prim
