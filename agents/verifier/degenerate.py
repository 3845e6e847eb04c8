"""Tasks that do not tell right from wrong: an output made without a look at the inputs is right.

Zeros pass on a mean that is taken off itself, a constant on the sums of a softmax, an old output on whatever does not
depend on values. What is right on such a task says nothing, and is not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from akg_dynamo.agents.verifier.numerics import Expected

if TYPE_CHECKING:
    from akg_dynamo.agents.verifier import plan
    from akg_dynamo.agents.verifier.values import Values

_FIRST_NUMBER = 60_000  # of the cases, which are never shown to a candidate
_CASES = 3
_IMPOSTORS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "an output of zeros": torch.zeros_like,
    "a constant output": lambda old: torch.full_like(old, _middle(old)) if old.numel() else old,
    "the output for other inputs": lambda old: old,
}


def passes_unseen(values: Values, group: plan.Group) -> str | None:
    """What passes on ordinary inputs that it was not made from, or None."""
    if values.model is not None and not values.model.varies:
        group = replace(group, kind=values.kind)
    cases = [values.lay_out(group, _FIRST_NUMBER + i, with_outputs=False) for i in range(_CASES)]
    values.arena(group.sizes).reset()
    wanted = [values.expected(case) for case in cases]
    known = [w for w in wanted if isinstance(w, list)]
    if len(known) < _CASES:
        return None
    for name, made in _IMPOSTORS.items():
        if _passes(values, group, [made(w.eager) for w in known[0]], known[1:]):
            return name
    return None


def _passes(
    values: Values, group: plan.Group, outputs: Sequence[torch.Tensor], others: Sequence[list[Expected]]
) -> bool:
    contract = values.contract(group.slack)
    for wanted in others:
        for i, (out, w) in enumerate(zip(outputs, wanted, strict=True)):
            if contract.add(i, out, w, "") is not None:
                return False
    return contract.finish() is None


def _middle(old: torch.Tensor) -> float | int | bool | complex:
    if old.dtype == torch.bool or not (old.is_floating_point() or old.is_complex()):
        return old.reshape(-1)[0].item()
    return old.nanmean().item() if old.is_floating_point() else old.mean().item()
