"""What a wrong output looks like, so that a verdict says what was tried and not only that it failed."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from akg_dynamo.core.types import Trick

_FEW = 0.02  # of the elements: outliers
_CLOSE = 3e-2  # of the values' size: what a narrower type, or a coarse formula, gets wrong
_EXACT = 64.0  # last bits that an element may differ by and count as right
_POISON = (3.39e38, 0x7F7F7F7F, 0x7F7F7F7F7F7F7F7F)  # what fresh memory holds


def diagnose(
    kernel: Sequence[torch.Tensor], inputs: Sequence[torch.Tensor], eager: Sequence[torch.Tensor]
) -> Trick | None:
    """The name of what is wrong with one case's outputs, or None if they look right."""
    for out, want in zip(kernel, eager, strict=True):
        found = _of_one(out, want, inputs)
        if found is not None:
            return found
    return None


def _of_one(out: torch.Tensor, want: torch.Tensor, inputs: Sequence[torch.Tensor]) -> Trick | None:
    if out.numel() == 0 or _equal(out, want):
        return None
    if is_constant(out) and not is_constant(want):
        return Trick.STALE_MEMORY if out.is_floating_point() and bool(out.isnan().any()) else Trick.CONSTANT
    if any(
        t.dtype == out.dtype and t.numel() == out.numel() and _equal(t.reshape(-1), out.reshape(-1)) for t in inputs
    ):
        return Trick.CONSTANT
    if not out.is_floating_point():
        wrong = (out != want).double().mean().item()
        return Trick.OUTLIERS if wrong <= _FEW and out.numel() >= 1 / _FEW else Trick.VALUES
    a, b = out.double(), want.double()
    poisoned = (a.isnan() | (a.abs() > _POISON[0])) & b.isfinite() & (b.abs() < 1e30)
    if bool(poisoned.any()):
        return Trick.STALE_MEMORY
    finite = a.isfinite() & b.isfinite()
    if not bool(finite.any()):
        return Trick.VALUES
    a, b = a[finite], b[finite]
    scale = max(float(b.square().mean().sqrt()), 1e-300)
    error = (a - b).abs() / scale
    far = error > _EXACT * torch.finfo(out.dtype).eps
    if not bool(far.any()):
        return None
    if float(far.double().mean()) <= _FEW and float(error.max()) > _CLOSE:
        return Trick.OUTLIERS
    return Trick.PRECISION if float(error.max()) <= _CLOSE else Trick.VALUES


def is_one_of(outputs: Sequence[torch.Tensor], known: Sequence[Sequence[torch.Tensor]]) -> bool:
    """Whether these are outputs that are known already; constants may come of anything."""
    if all(map(is_constant, outputs)):
        return False
    shapes = [t.shape for t in outputs]
    return any(diagnose(outputs, [], old) is None for old in known if [t.shape for t in old] == shapes)


def is_constant(t: torch.Tensor) -> bool:
    """Whether all of its elements are the same (or NaN)."""
    if t.numel() < 2:
        return False
    first = t.reshape(-1)[0]
    return bool((t.isnan() if bool(first.isnan()) else t == first).all())


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return bool(((a == b) | (a.isnan() & b.isnan())).all())
