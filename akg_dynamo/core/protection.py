"""What a process that runs candidates was kept from, and by what: part of every verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Measure:
    """One thing a candidate is kept from.

    against: what it must not do. how: what sees to it; empty: nothing does here. gap: what stays open, or why nothing
        does.
    """

    against: str
    how: str
    gap: str = ""

    def __str__(self) -> str:
        if not self.how:
            return f"not prevented: {self.gap}"
        return f"{self.how} ({self.gap})" if self.gap else self.how


@dataclass(frozen=True)
class Protection:
    """All measures, in the order in which they were taken; each is named once, whether it is active or not."""

    measures: tuple[Measure, ...] = ()

    @property
    def active(self) -> tuple[Measure, ...]:
        """Those that something sees to."""
        return tuple(m for m in self.measures if m.how)

    @property
    def missing(self) -> tuple[Measure, ...]:
        """Those that nothing sees to on this host."""
        return tuple(m for m in self.measures if not m.how)

    def __getitem__(self, against: str) -> Measure:
        """The measure against that."""
        return next(m for m in self.measures if m.against == against)

    def to_json(self) -> list[dict[str, str]]:
        """As reports and messages carry it."""
        return [asdict(m) for m in self.measures]

    @classmethod
    def from_json(cls, data: Sequence[Mapping[str, str]]) -> Protection:
        """The inverse of `to_json`."""
        return cls(tuple(Measure(m["against"], m["how"], m["gap"]) for m in data))
