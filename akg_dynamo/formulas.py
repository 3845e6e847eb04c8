"""Formulas over the index of a tensor's element: integers that are linear in it, and choices between two constants.

    arange(s)[None, :]                                  Linear: i1
    where(arange(s)[:, None] < arange(s), -inf, 0)      Choice: where i0 - i1 >= 0, 0, and elsewhere -inf

Sizes may be symbols: what is concluded holds for each of their values, and nothing asks for one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import sympy  # type: ignore[import-untyped]

Size: TypeAlias = "int | sympy.Expr"
Constant: TypeAlias = "bool | int | float"


class Unknown(Exception):
    """There is no formula: nothing may be concluded."""


@dataclass(frozen=True)
class Linear:
    """A constant and, by dim, how often the index along it is added. The slopes are not zero, and sorted."""

    constant: Size
    slopes: tuple[tuple[int, int], ...] = ()

    @property
    def number(self) -> int:
        """The value, if it is one number.

        Raises:
            Unknown: it is not.
        """
        if self.slopes or not isinstance(self.constant, int):
            raise Unknown
        return self.constant

    def plus(self, other: Linear, times: int = 1) -> Linear:
        """The sum of the two, the other one taken so many times."""
        slopes = dict(self.slopes)
        for dim, slope in other.slopes:
            slopes[dim] = slopes.get(dim, 0) + times * slope
        left = tuple(sorted((dim, slope) for dim, slope in slopes.items() if slope))
        return Linear(_sum(self.constant, other.constant, times), left)

    def moved(self, by: int) -> Linear:
        """The value, and so much."""
        return self.plus(Linear(by))

    def at(self, index: Sequence[Linear]) -> Linear:
        """The value at another index."""
        value = Linear(self.constant)
        for dim, slope in self.slopes:
            value = value.plus(index[dim], slope)
        return value

    def least(self, shape: Sequence[Size]) -> Size:
        """The smallest value in a tensor of that shape."""
        value = self.constant
        for dim, slope in self.slopes:
            if slope < 0:
                value = _sum(value, _sum(shape[dim], 1, -1), slope)
        return value

    def largest(self, shape: Sequence[Size]) -> Size:
        """The largest value in a tensor of that shape."""
        return _sum(0, Linear(0).plus(self, -1).least(shape), -1)


def along(dim: int) -> Linear:
    """The index along a dim."""
    return Linear(0, ((dim, 1),))


def is_nonnegative(size: Size) -> bool:
    """Whether that is known."""
    return size >= 0 if isinstance(size, int) else size.is_nonnegative is True


def _sum(a: Size, b: Size, times: int) -> Size:
    if isinstance(a, int) and isinstance(b, int):
        return a + times * b
    total = sympy.expand(a + times * b)
    return int(total) if total.is_Integer else total


Conditions: TypeAlias = "frozenset[Linear]"
"""Each is at least 0."""


@dataclass(frozen=True)
class Choice:
    """`yes` where the conditions hold; elsewhere `no`. A constant has no condition."""

    conditions: Conditions
    yes: Constant
    no: Constant

    @property
    def is_constant(self) -> bool:
        """Whether every element is `yes`."""
        return not self.conditions

    def at(self, index: Sequence[Linear]) -> Choice:
        """The choice at another index."""
        return Choice(frozenset(c.at(index) for c in self.conditions), self.yes, self.no)

    def given(self, conditions: Collection[Linear]) -> Choice:
        """What is left of it where the conditions hold."""
        if self.conditions <= set(conditions):
            return constant(self.yes)
        if len(self.conditions) == 1 and negated(self.conditions) <= set(conditions):
            return constant(self.no)
        return self


def constant(value: Constant) -> Choice:
    """That everywhere."""
    return Choice(frozenset(), value, value)


def negated(conditions: Conditions) -> Conditions:
    """Where the conditions do not hold.

    Raises:
        Unknown: there are several. It would take an "or" to say that one of them does not hold.
    """
    if len(conditions) != 1:
        raise Unknown
    return frozenset(Linear(-1).plus(c, -1) for c in conditions)


def choose(conditions: Conditions, yes: Constant, no: Constant, shape: Sequence[Size]) -> Choice:
    """A choice in a tensor of that shape, without the conditions that always hold there."""
    left = frozenset(c for c in conditions if not is_nonnegative(c.least(shape)))
    if any(is_nonnegative(_sum(-1, c.largest(shape), -1)) for c in left):
        return constant(no)
    if not left or yes == no:
        return constant(yes)
    if len(left) == 1 and yes is False:
        return Choice(negated(left), no, yes)
    return Choice(left, yes, no)


def select(chosen: Choice, a: Choice, b: Choice, shape: Sequence[Size]) -> Choice:
    """Where a choice between True and False says True, `a`; elsewhere `b`.

    Raises:
        Unknown: the result is not one choice.
    """
    if chosen.is_constant:
        of = a if chosen.yes else b
        return choose(of.conditions, of.yes, of.no, shape)
    if chosen.yes is False:
        a, b = b, a
    conditions = chosen.conditions
    a = a.given(conditions)
    if len(conditions) == 1:
        b = b.given(negated(conditions))
    if a.is_constant and not b.is_constant:
        a, b, conditions = b, a, negated(conditions)
    if not b.is_constant:
        raise Unknown
    if a.is_constant:
        return choose(conditions, a.yes, b.yes, shape)
    if a.no == b.yes:
        return choose(conditions | a.conditions, a.yes, a.no, shape)
    if a.yes == b.yes:
        return choose(conditions | negated(a.conditions), a.no, a.yes, shape)
    raise Unknown
