"""Passes of a nest that go over the same inner axes, and which of their reductions can be done in one pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from akg_dynamo.agents.designer.domain import leaves
from akg_dynamo.agents.designer.nests import Member, Nest, Pass
from akg_dynamo.agents.designer.recurrence import Recurrence, Reduced, recurrence
from akg_dynamo.agents.designer.sizes import product


def bands(nest: Nest) -> list[list[Pass]]:
    """The passes of a nest that have inner axes, by the axes they share."""
    found: dict[int, list[Pass]] = {}
    for group in nest.passes:
        if group.inner:
            found.setdefault(id(group.inner), []).append(group)
    return list(found.values())


def dependent(band: Sequence[Pass]) -> Iterator[tuple[Member, Member, Recurrence]]:
    """(base, member, how): the reductions that follow from one of an earlier pass, and are done in that pass."""
    terms = product(a.extent for a in band[0].inner)
    led: set[int] = set()
    bases: set[int] = set()
    for k, group in enumerate(band):
        for member in group.members:
            refs = {r.prim for r in leaves(member.tile)[0]}
            if not member.sink.is_reduction or len(refs) != 1:
                continue
            (prim,) = refs
            found = ((p, m) for p in band[:k] for m in p.members if m.sink.is_reduction and m.sink.prim is prim)
            first, base = next(found, (None, None))
            if first is None or base is None or id(base) in led or any(not m.sink.is_reduction for m in first.members):
                continue
            how = recurrence(member.sink.op, member.tile, Reduced(base.sink.op, base.tile, prim, terms))
            if how is not None and not (how.kind == "deviation" and id(base) in bases):
                led.add(id(member))
                bases.add(id(base))
                yield base, member, how


def follows_a_mean(band: Sequence[Pass]) -> bool:
    """Whether a loop would sum squares about a mean that it is still looking for (Welford)."""
    return any(how.kind == "deviation" for _, _, how in dependent(band))


def sums_exponentials(band: Sequence[Pass]) -> bool:
    """Whether a loop would sum exponentials about a maximum that it is still looking for."""
    return any(how.kind == "exponential" for _, _, how in dependent(band))


def reads(band: Sequence[Pass]) -> int:
    """How often a loop would go through the elements: passes whose reductions are all done earlier do not count."""
    led = {id(member) for _, member, _ in dependent(band)}
    return sum(1 for group in band if any(id(m) not in led for m in group.members))


def carried(band: Sequence[Pass]) -> int:
    """How many tiles the loop of the busiest pass carries from one trip to the next."""
    follows = list(dependent(band))
    led = {id(member) for _, member, _ in follows}
    tiles: list[int] = []
    for group in band:
        total = 0
        positions = [m.tile for m in group.members if m.sink.op.startswith("arg")]
        for member in group.members:
            if not member.sink.is_reduction or id(member) in led:
                continue
            if member.sink.op in ("max", "min") and any(t is member.tile for t in positions):
                continue  # it comes with its position
            mine = [how.kind for base, _, how in follows if base is member]
            if member.sink.op.startswith("arg") or "deviation" in mine:
                total += 2
            else:
                total += 1 + len(mine)
        tiles.append(total)
    return max(tiles)
