"""Whether a broken contract is a draw's luck: near a singularity, one draw's error is one random rounding over another.

`second_look` draws a kind of inputs anew. `breaks_alone` is for a call that cannot be made again, as of a series: how
far eager is off on neighbours of its inputs, which are as near to whatever is there and round differently, says how
much of the error is luck.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from akg_dynamo.agents.verifier import plan
from akg_dynamo.agents.verifier.evaluate import is_float
from akg_dynamo.agents.verifier.inputs import beside
from akg_dynamo.agents.verifier.numerics import Contract, Rule
from akg_dynamo.agents.verifier.shapes import elements

if TYPE_CHECKING:
    from akg_dynamo.agents.verifier.case import Case
    from akg_dynamo.agents.verifier.values import Values

BATCH_BYTES = {"cpu": 32 << 20, "cuda": 256 << 20}
"""Of cases that are run in one go, by where the arena is."""
_FIRST_NUMBER = 10_000  # of the fresh cases: other inputs than those that failed
_MOST_ELEMENTS = 1 << 22
_FEWEST_NEIGHBOURS = 4
_EXACT = ("dyadic", "denormal")  # kinds of inputs that are about their very values

Draw = tuple[int, int]
"""The number of a case, and which neighbour of it; 0 is the case itself."""


def second_look(values: Values, group: plan.Group, culprit: int | None) -> str | None:
    """What is wrong on fresh inputs, and again on neighbours of the worst case; None: the kernel is right."""
    n = elements(values.sub, group.sizes)
    seeds = max(group.seeds, min(plan.POOLED_SEEDS, 1 + _MOST_ELEMENTS // max(n, 1)))
    fresh = [(_FIRST_NUMBER + number, 0) for number in range(seeds)]
    reason = ""
    for relative in (False, True):
        found = _pooled(values, group, fresh, relative=relative)
        if found is None:
            return None
        reason = reason or found
    if culprit is None or group.kind in _EXACT or not any(map(is_float, values.sub.inputs)):
        return f"on fresh inputs, {reason}"
    near = _beside(values, group, culprit)
    return None if near is None else f"on fresh inputs, {reason}; on neighbours of that case, {near}"


def breaks_alone(values: Values, case: Case, contract: Contract) -> str | None:
    """What breaks a contract that has taken in that case and no other."""
    reason = contract.finish()
    if reason is None or contract.rule not in (Rule.BOUNDED, Rule.STAGED):
        return reason
    if case.group.sampled or not any(map(is_float, values.sub.inputs)):
        return reason
    near = case
    for neighbour in range(_n_neighbours(values, case.group) + 1):
        if neighbour:
            moved = [beside(flat, neighbour << 16 | i) for i, flat in enumerate(case.private)]
            near = replace(case, private=moved, moved=None, as_drawn=False)
        wanted = values.expected(near)
        if isinstance(wanted, list):
            of_eager = values.contract(case.group.slack)
            for i, w in enumerate(wanted):
                of_eager.add(i, w.eager, w, "")
            contract.stand_in(of_eager)
            if contract.finish() is None:
                return None
    return reason


def _n_neighbours(values: Values, group: plan.Group) -> int:
    n = elements(values.sub, group.sizes)
    return max(_FEWEST_NEIGHBOURS, min(plan.POOLED_SEEDS, 2 * _MOST_ELEMENTS // max(n, 1)))


def _beside(values: Values, group: plan.Group, culprit: int) -> str | None:
    """What is wrong on neighbours of a case: on all together, where one may outweigh the others, and on most of them,
    each by itself. The case, which was chosen for its error, is held to what eager's is on any of them.
    """
    own, *others = _contracts(values, group, [(culprit, k) for k in range(_n_neighbours(values, group) + 1)])
    together = values.contract(group.slack)
    own.stand_in(own)
    for each in others:
        together.merge(each)
        own.stand_in(each)
    broken = sum(each.finish() is not None for each in others)
    return own.finish() or (together.finish() if 2 * broken >= len(others) else None)


def _pooled(values: Values, group: plan.Group, draws: Sequence[Draw], *, relative: bool) -> str | None:
    """What breaks the contract on these draws together."""
    together = Contract(values.truth.rule, 0.0, group.slack, relative=relative)
    for each in _contracts(values, group, draws, relative=relative):
        together.merge(each)
    return together.finish()


def _contracts(values: Values, group: plan.Group, draws: Sequence[Draw], *, relative: bool = False) -> list[Contract]:
    """A contract for each of these draws."""
    found = {i: Contract(values.truth.rule, 0.0, group.slack, relative=relative) for i in range(len(draws))}
    arena = values.arena(group.sizes)
    at_once = max(1, BATCH_BYTES[arena.device.type] // max(values.case_bytes(group), 1))
    for start in range(0, len(draws), at_once):
        arena.reset()
        some = list(enumerate(draws))[start : start + at_once]
        values.run([(i, values.lay_out(group, n, neighbour=neighbour)) for i, (n, neighbour) in some], found)
    return list(found.values())
