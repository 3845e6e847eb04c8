"""One case: inputs as they were drawn, where a worker finds them, and what is checked before any value is compared."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from akg_dynamo.agents.verifier import plan
from akg_dynamo.agents.verifier.arena import Buffers
from akg_dynamo.agents.verifier.shapes import values
from akg_dynamo.agents.verifier.workers import Failed
from akg_dynamo.core.types import Outcome, TensorSpec, Trick

_memcmp = ctypes.CDLL(None).memcmp
_memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


def same_bytes(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two runs of bytes of one length are equal; NaN equals itself."""
    if a.device.type != "cpu":
        return torch.equal(a, b.view(torch.uint8))
    return int(_memcmp(a.data_ptr(), b.data_ptr(), b.numel() * b.element_size())) == 0


@dataclass
class Case:
    """One draw of inputs: what the judge keeps of it, and where the worker finds it."""

    group: plan.Group
    number: int
    arena: Buffers
    private: list[torch.Tensor]  # the inputs' flat storages
    offsets: list[int]
    places: list[list[tuple[int, int]]]  # per call, per output: offset and bytes
    message: dict[str, Any]
    neighbour: int = 0  # which one of the case of that number
    as_drawn: bool = False  # its contents follow from the seed
    moved: list[torch.Tensor] | None = None  # the private storages on the device, where they are drawn on the host

    def __str__(self) -> str:
        return (
            f"{self.group.kind} inputs, seed {self.number}"
            + (f", {dict(self.group.sizes)}" if self.group.sizes else "")
            + (f", {self.group.layout}" if self.group.layout is not None else "")
        )


def check_form(case: Case, call: dict[str, Any], specs: Sequence[TensorSpec]) -> None:
    """Number, dtype, shape, strides and device of the outputs, strictly; and whose memory they are."""
    if "bad" in call:
        raise Failed(Outcome.WRONG, f"on {case}: {call['bad']}", Trick[call.get("trick", "FORM")])
    if len(call["outputs"]) != len(specs):
        raise Failed(Outcome.WRONG, f"on {case}: {len(call['outputs'])} outputs, not {len(specs)}", Trick.FORM)
    for i, (got, spec) in enumerate(zip(call["outputs"], specs, strict=True)):
        shape, stride = values(spec.shape, case.group.sizes), values(spec.stride, case.group.sizes)
        for what, has, must in (
            ("dtype", got["dtype"], spec.dtype),
            ("device", got["device"], spec.device),
            ("shape", tuple(got["shape"]), shape),
        ):
            if has != must:
                raise Failed(Outcome.WRONG, f"output {i} on {case}: {what} {has}, must be {must}", Trick.FORM)
        # The stride of a dim of one element, or of a tensor of none, means nothing; of inputs that lie otherwise than
        # they were traced, eager's outputs may lie in a way of their own.
        same = case.group.layout is not None or all(
            n == 1 or a == b for n, a, b in zip(shape, got["stride"], stride, strict=True)
        )
        if not same and 0 not in shape:
            has = tuple(got["stride"])
            raise Failed(Outcome.WRONG, f"output {i} on {case}: strides {has}, must be {stride}", Trick.FORM)
        if got["aliases_input"]:
            raise Failed(Outcome.WRONG, f"output {i} on {case}: shares memory with an input", Trick.ALIASES)
        if got["aliases_output"]:
            raise Failed(Outcome.WRONG, f"output {i} on {case}: shares memory with another output", Trick.ALIASES)


def check_untouched(case: Case) -> None:
    """Whether the inputs, and the zones around them, hold what they held."""
    if case.arena.device.type != "cpu" and not any_touched(case):
        return  # asked in one go: a device takes as long to answer as to look
    arena = case.arena
    for i, (flat, offset) in enumerate(zip(case.private, case.offsets, strict=True)):
        n_bytes = flat.numel() * flat.element_size()
        if n_bytes and not same_bytes(arena.bytes[offset : offset + n_bytes], flat):
            raise Failed(Outcome.WRONG, f"on {case}: wrote into input {i}", Trick.MUTATES)
        for zone in arena.guard(offset, n_bytes):
            if not bool((zone == 0xFF).all()):
                raise Failed(Outcome.WRONG, f"on {case}: wrote past an end of input {i}", Trick.OUT_OF_BOUNDS)


def any_touched(case: Case) -> bool:
    """Whether an input or a zone beside it was written to, asked in one go."""
    found = [torch.zeros((), dtype=torch.bool, device=case.arena.device)]
    for flat, offset in zip(case.private, case.offsets, strict=True):
        n_bytes = flat.numel() * flat.element_size()
        found.append((case.arena.bytes[offset : offset + n_bytes] != flat.view(torch.uint8)).any())
        found += [(zone != 0xFF).any() for zone in case.arena.guard(offset, n_bytes)]
    return bool(torch.stack(found).any())
