"""Kernels that write where they are told to: `run_into` must do in any memory what `run` does in fresh memory.

It is given poisoned memory, and, where the module's IN_PLACE says that it may be, copies of its own inputs.
"""

from __future__ import annotations

import types
from collections.abc import Sequence
from typing import Any

import torch

from akg_dynamo.agents.verifier.guarded import Zones

Pair = tuple[int, int]
"""An output, and the input whose memory it is written into."""

_LARGE_BYTES = 32 << 20  # of outputs on the host: one call more and no other
_INTEGER = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def wrong(module: types.ModuleType, arguments: Sequence[Any], outputs: Sequence[torch.Tensor], zones: Zones) -> str:
    """What is wrong with the module's `run_into`, beside what `run` returned for these arguments; empty if nothing."""
    if not hasattr(module, "run_into"):
        return ""
    for pairs in _choices(tuple(map(tuple, getattr(module, "IN_PLACE", ()))), outputs):
        inputs = list(arguments)
        written = []
        for o, out in enumerate(outputs):
            memory = zones.allocate(out.shape, out.stride(), out.dtype)
            source = dict(pairs).get(o)
            if source is not None:
                own = inputs[source]
                if (own.shape, own.stride(), own.dtype) != (out.shape, out.stride(), out.dtype):
                    return f"IN_PLACE names output {o} and input {source}, which are laid out differently"
                inputs[source] = memory.copy_(own)
            written.append(memory)
        module.run_into(*written, *inputs)
        for o, (memory, out) in enumerate(zip(written, outputs, strict=True)):
            if not _same(memory, out):
                place = f"the memory of input {dict(pairs)[o]}" if o in dict(pairs) else "given memory"
                return f"output {o} differs when it is written into {place}"
    return ""


def _choices(pairs: tuple[Pair, ...], outputs: Sequence[torch.Tensor]) -> list[tuple[Pair, ...]]:
    """None of the outputs in an input, each of the pairs alone, and as many as possible at once."""
    most: list[Pair] = []
    for o, i in pairs:
        if all(o != taken and i != used for taken, used in most):
            most.append((o, i))
    large = sum(t.numel() * t.element_size() for t in outputs if t.device.type == "cpu") > _LARGE_BYTES
    return [tuple(most)] if large else list(dict.fromkeys([(), *((p,) for p in pairs), tuple(most)]))


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    integer = _INTEGER.get(a.element_size())
    same = a == b if integer is None else a.view(integer) == b.view(integer)
    return bool((same | (a.isnan() & b.isnan())).all())
