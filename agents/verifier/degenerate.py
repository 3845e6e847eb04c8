"""Tasks that do not tell right from wrong: an output made without a look at the inputs is right.

Zeros pass on a mean that is taken off itself, a constant on the sums of a softmax, an old output on whatever does not
depend on values. What is right on such a task says nothing, and is not counted.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from akg_dynamo.agents.verifier.numerics import Expected
from akg_dynamo.agents.verifier.shapes import elements

if TYPE_CHECKING:
    from akg_dynamo.agents.verifier import plan
    from akg_dynamo.agents.verifier.values import Values

_FIRST_NUMBER = 60_000  # of the cases, which are never shown to a candidate
_CASES = 3
_MOST_CASES = 17  # where a few are passed: outputs of few values are the same now and then
_MOST_ELEMENTS = 1 << 22
_IMPOSTORS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "an output of zeros": torch.zeros_like,
    "a constant output": lambda old: torch.full_like(old, _middle(old)) if old.numel() else old,
    "the output for other inputs": lambda old: old,
}


def passes_unseen(values: Values, group: plan.Group) -> str | None:
    """What passes on ordinary inputs that it was not made from, or None."""
    if values.model is not None and not values.model.varies:
        group = replace(group, kind=values.kind)
    values.arena(group.sizes).reset()

    @functools.cache
    def wanted(i: int) -> list[Expected] | None:
        found = values.expected(values.lay_out(group, _FIRST_NUMBER + i, with_outputs=False))
        return found if isinstance(found, list) else None

    n = elements(values.sub, group.sizes)
    numbers = range(1, max(_CASES, min(_MOST_CASES, _MOST_ELEMENTS // max(n, 1))))
    own = wanted(0)
    if own is None:
        return None
    for name, made in _IMPOSTORS.items():
        if _passes(values, group, [made(w.eager) for w in own], map(wanted, numbers)):
            return name
    return None


def _passes(
    values: Values, group: plan.Group, outputs: Sequence[torch.Tensor], others: Iterable[list[Expected] | None]
) -> bool:
    """Whether these are right as the outputs of all others; not where eager refuses one."""
    contract = values.contract(group.slack)
    for number, each in enumerate(others, 2):
        if each is None:
            return False
        for i, (out, w) in enumerate(zip(outputs, each, strict=True)):
            if contract.add(i, out, w, "") is not None:
                return False
        if number >= _CASES and contract.finish() is not None:
            return False
    return True


def _middle(old: torch.Tensor) -> float | int | bool | complex:
    if old.dtype == torch.bool or not (old.is_floating_point() or old.is_complex()):
        return old.reshape(-1)[0].item()
    return old.nanmean().item() if old.is_floating_point() else old.mean().item()
