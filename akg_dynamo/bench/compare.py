"""Whether a contender's values are as good as eager's, without the judge: quick, and the same for everyone."""

from __future__ import annotations

import copy
from typing import Any

import torch

from akg_dynamo.bench.problem import Problem, tensors

_BLOCK = 1 << 24
"""Elements compared at a time, so that a comparison in fp64 needs little memory beside 1 GB tensors."""


def exact(problem: Problem) -> tuple[torch.Tensor, ...] | None:
    """The model in fp64 on the same values; None where it cannot be had (no floats, or no memory for it)."""
    if not any(t.is_floating_point() for t in tensors(problem.inputs)):
        return None
    try:
        wide = [_wide(v) for v in problem.inputs]
        return tensors(copy.deepcopy(problem.model).double()(*wide))
    except (torch.OutOfMemoryError, RuntimeError, TypeError):
        # Some operators have no fp64 kernel, and some models mix in a tensor of a fixed dtype.
        return None


def _wide(value: Any) -> Any:
    return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def difference(actual: object, expected: object, truth: tuple[torch.Tensor, ...] | None, units: float = 4) -> str:
    """Empty when right; else the first thing that is not: layout, dtype, NaN and Inf, or an error beyond eager's.

    Against fp64, twice eager's largest error and `units` in the last place of the largest value are allowed; integers
    must be equal.
    """
    ours, theirs = tensors(actual), tensors(expected)
    if len(ours) != len(theirs):
        return f"{len(ours)} outputs instead of {len(theirs)}"
    for i, (a, e) in enumerate(zip(ours, theirs, strict=True)):
        if (a.shape, a.stride(), a.dtype, a.device) != (e.shape, e.stride(), e.dtype, e.device):
            return f"output {i} is {_layout(a)}, not {_layout(e)}"
        if not e.is_floating_point():
            if not torch.equal(a, e):
                return f"output {i} differs in {int((a != e).sum())} of {e.numel()} elements"
            continue
        x = truth[i] if truth is not None and i < len(truth) and truth[i].shape == e.shape else None
        problem = _float_difference(a, e, x, units)
        if problem:
            return f"output {i}: {problem}"
    return ""


def _layout(t: torch.Tensor) -> str:
    return f"{t.dtype}{list(t.shape)} with strides {t.stride()} on {t.device}"


def _float_difference(a: torch.Tensor, e: torch.Tensor, x: torch.Tensor | None, units: float) -> str:
    eps = torch.finfo(e.dtype).eps
    worst = allowed = scale = 0.0
    flat = [t.reshape(-1) for t in (a, e, x if x is not None else e)]
    for start in range(0, e.numel(), _BLOCK):
        ours, eager, truth = (t[start : start + _BLOCK].double() for t in flat)
        finite = truth.isfinite() & eager.isfinite()
        if not torch.equal(ours[~finite].nan_to_num(), eager[~finite].nan_to_num()):
            return "NaN or Inf is not where eager has it"
        if not finite.any():
            continue
        worst = max(worst, _largest(ours, truth, finite))
        allowed = max(allowed, _largest(eager, truth, finite))
        scale = max(scale, float(truth[finite].abs().max()))
    # Without an fp64 result eager's own error is unknown: then sums are given the room of a few dozen roundings.
    bound = 2 * allowed + (units if x is not None else max(units, 64)) * eps * scale
    return "" if worst <= bound else f"largest error {worst:.3g}, allowed {bound:.3g}"


def _largest(value: torch.Tensor, truth: torch.Tensor, finite: torch.Tensor) -> float:
    return float((value - truth)[finite].abs().max().nan_to_num(nan=float("inf")))
