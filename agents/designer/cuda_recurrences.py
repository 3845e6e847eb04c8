"""Reductions that depend on one another, done in one pass: each lane keeps its own, and they are brought together.

s = sum(exp(x - max(x)))         the lane's maximum so far, and its sum of exponentials about that
q = sum((x - mean(x)) ** 2)      the lane's mean so far, and its squares about that (Welford)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from akg_dynamo.agents.designer.cuda_bands import dependent
from akg_dynamo.agents.designer.cuda_chunks import ONE, Terms
from akg_dynamo.agents.designer.cuda_loops import LoopWriter, OpenLoop
from akg_dynamo.agents.designer.cuda_tiles import NestPlan
from akg_dynamo.agents.designer.declare import Declarations, minus, times
from akg_dynamo.agents.designer.nests import Member, Nest, Pass
from akg_dynamo.agents.designer.prims import Prim
from akg_dynamo.agents.designer.recurrence import Recurrence
from akg_dynamo.agents.designer.writer import ZERO
from akg_dynamo.agents.sketch.ast import (
    Assign,
    Cast,
    DType,
    IndexValue,
    IntExpr,
    IntVar,
    Literal,
    Name,
    Op,
    TileExpr,
)

_LEAST: Mapping[DType, float] = {DType.F32: -3.4028234663852886e38, DType.F64: -1.7976931348623157e308}


@dataclass(frozen=True)
class Together:
    """A reduction that is done in the pass of another."""

    member: Member
    how: Recurrence


class RecurrenceWriter(LoopWriter):
    """Writes such reductions. `_led`: the members that another's pass computes, by identity."""

    def __init__(self, whole: Declarations, nest: Nest, plan: NestPlan, counts: dict[Prim, Terms]) -> None:
        super().__init__(whole, nest, plan, counts)
        self._together: dict[int, list[Together]] = {}
        self._led: set[int] = set()

    def _join_recurrences(self, band: Sequence[Pass]) -> None:
        for base, member, how in dependent(band):
            self._together.setdefault(id(base), []).append(Together(member, how))
            self._led.add(id(member))

    def _accumulate_exponentials(self, member: Member, value: TileExpr, names: Sequence[str], loop: OpenLoop) -> None:
        """Every lane's maximum so far, and its sum of exponentials: of the two exponents, one is 0.

        Nothing is exchanged between lanes. A maximum of -inf is taken for the least number there is, since -inf from
        -inf is NaN.
        """
        most, dtype = Name(names[0]), member.tile.dtype
        v = value if isinstance(value, Name) else self._let("v", value)
        least = Op("maximum", (most, Literal(_LEAST[dtype])))
        term = self._let("e", Op("exp", (Op("neg", (Op("abs", (Op("sub", (v, least)),)),)),)))
        higher = self._let("higher", Op("gt", (v, least)))
        for name in names[1:]:
            scaled = Op("add", (Op("mul", (Name(name), term)), Literal(1.0)))
            self._add(Assign(name, Op("where", (higher, scaled, Op("add", (Name(name), term))))))
        self._add(Assign(most.name, Op("maximum", (most, v))))

    def _finish_exponentials(self, together: Together, total: TileExpr, most: str) -> None:
        """Where the maximum is infinite or NaN, what is left of the sum is what is left of the maximum's own term."""
        m = Name(most)
        about = self._value(together.how.about)
        odd = Op("exp", (Op("sub", (m, about)),))
        finite = Op("lt", (Op("abs", (m,)), Literal(float("inf"))))
        self._finished(together.member, Op("where", (finite, total, odd)))

    def _accumulate_deviation(self, member: Member, value: TileExpr, loop: OpenLoop) -> None:
        """Every lane's mean, and its sum of squared deviations from that (Welford)."""
        names, dtype = loop.carried[id(member)], member.tile.dtype
        mean, squares = Name(names[0]), Name(names[1])
        v = value
        if self._ragged(loop):
            live = self._live(loop)
            assert live is not None
            seen = Name(names[2])
            v = self._let("v", Op("where", (live, value, mean)))
            one = Op("where", (live, Literal(1.0, dtype), Literal(0.0)))
            self._add(Assign(seen.name, Op("add", (seen, one))))
            share: TileExpr = Op("div", (Literal(1.0), Op("maximum", (seen, Literal(1.0)))))
        else:
            v = value if isinstance(value, Name) else self._let("v", value)
            if not loop.inverse:
                assert loop.count is not None
                count = Cast(IndexValue(loop.count), dtype)
                loop.inverse = self._let("inverse", Op("div", (Literal(1.0), count))).name
            share = Name(loop.inverse)
        off = self._let("off", Op("sub", (v, mean)))
        self._add(Assign(mean.name, Op("add", (mean, Op("mul", (off, share))))))
        self._add(Assign(squares.name, Op("add", (squares, Op("mul", (off, Op("sub", (v, mean))))))))

    def _finish_deviation(self, base: Member, member: Member, names: Sequence[str], loop: OpenLoop) -> None:
        """The lanes' means and squares brought to the common mean."""
        axes = [a for a in loop.group.inner if a in loop.lanes]
        mean, squares = Name(names[0]), Name(names[1])
        terms: TileExpr
        if len(names) > 2:
            terms = Name(names[2])
            whole = self._let("terms", self._reduced("sum", terms, axes))
        else:
            lanes: IntExpr = ONE
            trips: IntExpr = ONE
            for axis in loop.group.inner:
                lo, hi = self._bounds.get(axis, (ZERO, self._whole.size(axis.extent)))
                found = loop.lanes.get(axis)
                if found is not None:
                    lanes = times(lanes, IntVar(found.tile))
                    trips = times(trips, self._tile_count(axis, lo, hi, IntVar(found.tile), found.full))
                else:
                    trips = times(trips, self._trips.get(axis, minus(hi, lo)))
            terms = self._let("terms", Cast(IndexValue(trips), base.tile.dtype))
            whole = self._let("terms", Cast(IndexValue(times(trips, lanes)), base.tile.dtype))
        total = self._let("s", self._reduced("sum", Op("mul", (mean, terms)), axes))
        off = self._let("off", Op("sub", (mean, Op("div", (total, whole)))))
        apart = Op("add", (squares, Op("mul", (terms, Op("mul", (off, off))))))
        self._finished(base, total)
        self._finished(member, self._reduced("sum", apart, axes))
