"""Which of torch's own operators can write their result over an operand.

What a kernel could not do faster stays with torch, and there every elementwise operator allocates its result while its
operand is about to die:

    gelu = gelu(linear)                               gelu = gelu(linear, out=linear)
    del linear                                        del linear

An elementwise operator reads an element before it writes it, and torch refuses an overlap that is not exact, so that
nothing but the memory differs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import fx

_KEYS = {"cpu": "CPU", "cuda": "CUDA"}


@dataclass(frozen=True)
class Overwriting:
    """An overload that computes what another one does, in memory that is given.

    argument: what the memory is called; empty: it is the first argument's.
    """

    overload: torch._ops.OpOverload[..., Any]
    argument: str


def overwriting(node: fx.Node) -> Overwriting | None:
    """How the node's operator is told where to write, if it is elementwise and can be."""
    value, target = node.meta.get("val"), node.target
    if not isinstance(value, torch.Tensor) or not isinstance(target, torch._ops.OpOverload):
        return None
    key = _KEYS.get(value.device.type)
    return _overload(target, key) if key is not None and target.namespace == "aten" else None


@cache
def _overload(target: torch._ops.OpOverload[..., Any], key: str) -> Overwriting | None:
    schema = target._schema
    if torch.Tag.pointwise not in target.tags or schema.is_mutable or len(schema.returns) != 1:
        return None
    if torch.Tag.nondeterministic_seeded in target.tags or schema.returns[0].alias_info is not None:
        return None
    wanted = _arguments(schema.arguments)
    for name in target.overloadpacket.overloads():
        overload = getattr(target.overloadpacket, name)
        arguments = overload._schema.arguments
        out = [a.name for a in arguments if a.is_out]
        if len(out) == 1 and _arguments(a for a in arguments if not a.is_out) == wanted and _is_native(overload, key):
            return Overwriting(overload, out[0])
    # relu has no kernel for memory that is given, but one for its own argument.
    packet = getattr(torch.ops.aten, f"{target.overloadpacket.__name__}_", None)
    overload = getattr(packet, target._overloadname, None)
    if overload is not None and _arguments(overload._schema.arguments) == wanted and _is_native(overload, key):
        return Overwriting(overload, "")
    return None


def _arguments(arguments: Any) -> list[tuple[str, str]]:
    return [(a.name, str(a.type)) for a in arguments]


def _is_native(overload: torch._ops.OpOverload[..., Any], key: str) -> bool:
    """Whether there is a kernel: what torch generates for the others allocates a result and copies it."""
    name: str = overload.name()  # type: ignore[no-untyped-call]
    return torch._C._dispatch_has_kernel_for_dispatch_key(name, key)
