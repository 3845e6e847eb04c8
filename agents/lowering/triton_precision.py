"""Which f32 values only end in 16-bit floats, so that a hardware approximation (2 ulp or a few) is as good as exact.

Precision is asked for backwards: by a store of 32 bits or more, by what jumps (comparisons, rounding, integers,
indices, the choice of an extreme), and then by everything that these are computed from. A conversion to 16 bits asks
for none. It passes through carried names and through scratch tensors.
"""

from __future__ import annotations

from collections.abc import Iterator

from akg_dynamo.agents.lowering.ir import Block, Loop, Program, SetVariable, StoreTo, Value, Variable
from akg_dynamo.agents.sketch.ast import DType

_HALVES = (DType.F16, DType.BF16)
_JUMPING = frozenset(("floor", "ceil", "trunc", "round", "floordiv", "mod", "fmod", "nextafter", "sign"))


def rough(program: Program) -> frozenset[Value]:
    """The floating-point values that need no more precision than 16-bit floats have."""
    sinks = list(_sinks(program.block))
    scratch = {t.name for t in program.sketch.tensors if t.kind == "tmp"}
    assigned: dict[Variable, list[Value]] = {}
    stored: dict[str, list[Value]] = {}
    todo: list[Value] = []
    for sink in sinks:
        if isinstance(sink, SetVariable):
            assigned.setdefault(sink.variable, []).append(sink.value)
            continue
        name = sink.access.tensor.name
        todo.extend(sink.access.gathers)
        if name in scratch:
            stored.setdefault(name, []).append(sink.value)
        elif sink.access.tensor.dtype not in _HALVES:
            todo.append(sink.value)
    todo += [arg for value in program.values for arg in _exact_operands(value)]
    exact: set[Value] = set()
    while todo:
        value = todo.pop()
        if value in exact:
            continue
        exact.add(value)
        if isinstance(value.data, Variable):
            todo += assigned.get(value.data, [])
        elif value.kind == "load" and value.access is not None:
            todo += stored.get(value.access.tensor.name, [])
        if value.dtype not in _HALVES:
            todo += value.args
    return frozenset(v for v in program.values if v not in exact and v.dtype in (DType.F32, *_HALVES))


def _exact_operands(value: Value) -> tuple[Value, ...]:
    """The operands that must be right whatever becomes of the value."""
    if value.kind == "load":
        return value.args  # indices and conditions
    if value.kind == "reduce" and value.name.startswith("arg"):
        return value.args
    if value.kind == "op" and value.name == "where":
        return value.args[:1]
    if not value.dtype.is_float or value.name in _JUMPING:
        return value.args
    return ()


def _sinks(block: Block) -> Iterator[StoreTo | SetVariable]:
    for item in block.items:
        if isinstance(item, Loop):
            yield from _sinks(item.block)
        else:
            yield from (s for s in item.sinks if not isinstance(s, Value))
