"""The contract on values: when is a kernel's output right?

`BOUNDED` compares errors, not values. With O the fp64 oracle, E eager's output and K the kernel's: per output tensor,
the RMS and the maximum of |K - O| may be twice those of |E - O|, after a floor of eps * max(|O|, A) is taken off each
element's error, A being the oracle on absolute values. Seeds of one kind are pooled: one scalar sum in a permuted order
has more than twice eager's error every seventh time, thirty-two of them together never.

For float64 outputs O has twice as many digits (`wide_oracle`), in a high and a low half. Where some operator cannot be
evaluated so, E stands for O, and eager's error is measured twice, and the larger counts: one precision down (the same
program in float32 against float64, times 2^-29), and by evaluating it on reversed inputs (all dims flipped: sums run
the other way, values that do not depend on positions come out reversed). The first alone misses operators that
accumulate float32 in double, as `var` does. With E in the place of O the kernel may differ by three of eager's errors:
twice its own, and once eager's.

Where a kind has too few elements to compare two errors statistically, the floor is `slack` times as high.

Complex numbers are compared as pairs of real ones, both of which must be right, with the modulus as the magnitude of
either. Integers and bools must be equal.

**A second look.** Where magnitudes differ widely, the maximum and the RMS are those of one row, and their ratio is one
random rounding over another. A kind that fails is therefore drawn anew, at least 32 times where outputs are small, and
passes by the same rule, on errors as they are or on each relative to its element's max(|O|, A). Where one draw is close
to a singularity (a norm of nearly nothing, an epsilon that cancels) it outweighs all others by either measure. Then
neighbours of that draw, a few last bits away, are looked at: they are nearly as close, and round differently. They must
pass together, or most of them, each by itself; and that draw, which was chosen for its error, may be off by eight times
what eager is on any of them (`luck`, where single calls, as those of a series, are held to that, too).

Of 220 graphs out of models, each with 32 to 256 draws of three kinds, the first rule alone refused 0.1% of 10,605 pools
of 32 draws, of kernels as accurate as eager. Of 1,000 judgements of such kernels, most of which had poles in their
outputs (1 / (x @ y), say), all rules together refused six.

**Inf and NaN** must be where eager, the oracle, or the oracle by torch's decompositions has them, and of the same kind
(NaN, Inf, -Inf). Where eager is not finite and the oracle is, or is so in another way, an intermediate overflowed, and
any of the three will do: a*b + c with one rounding overflows later than with two. One more case is open: where eager
gives one kind and the decomposition another, equally valid formulas differ (the mean of a row that holds Inf is Inf by
its sum, and NaN by Welford's update, which subtracts infinities). There the kernel may give any of the three, but
nothing finite. The other way round, eager's rounding may keep an intermediate in range that overflows where it is not
rounded: exp(88.5) of what bf16 makes of 88.8. Where the oracle is not finite once its intermediates are infinite that
the original dtypes cannot hold, the kernel need not be finite either, and the kind follows from the roundings again.
Nor need it be infinite where eager is, if it is within 2^-10 of the largest value, and the oracle no further beyond.

`EXACT` and `STAGED` are what numerics "eager" means, by whether eager's operators are exact (`exactness`): bit-equal;
or, where eager itself rounds as it happens to, `BOUNDED`'s rule against an oracle that rounds to the original dtypes
wherever eager does. In two bytes and fewer that leaves single last bits apart, and one element in a hundred.

`FAST` allows `rtol` of the largest and of the RMS value on top of eager's errors.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from akg_dynamo.agents.verifier import shapes

FACTOR = 2.0
# The c of the floor c * eps * A, by an element's bytes. Eager sometimes accumulates in double and is right to the last
# bit, where a kernel that is as good as its precision allows loses a few. In two bytes the last bits are the rounding
# of the result alone; in one, a last bit is an eighth of the value.
FLOOR = {1: 0.25, 2: 1.0, 4: 4.0, 8: 4.0}
# Of the elements, how many may be a last bit away where eager's rounding points must be kept: those near a tie.
_NEAR_TIES = 0.01
_FEWEST_OFF = 2
_HOPELESS = 500.0
_TELLING = 32  # of eager's errors: one alone may be as good as none by chance
_HARDLY = 2.0**-10  # of the largest value, within which roundings decide whether a result is still in range
# What eager's error on neighbours counts for one draw's. Of 2,271 single draws that refuse kernels which pooled ones do
# not, the kernel was off by up to 5.2 times eager's largest error on 32 neighbours.
_STAND_IN = 4.0
# What a cache holds, and no more than torch computes on one thread: thousands of small operations that each wait for
# another thread take many times as long on a busy machine. On a device, what its memory can spare.
CHUNK = {"cpu": 1 << 14, "cuda": 1 << 24}


class Rule(enum.Enum):
    """Which contract a kernel is held to (see the module's docstring)."""

    BOUNDED = "bounded"
    FAST = "fast"
    EXACT = "exact"
    STAGED = "staged"


@dataclass(frozen=True)
class _Grain:
    """How fine an output's dtype is, whatever it is compared in."""

    eps: float
    smallest: float
    bytes: int

    @classmethod
    def of(cls, dtype: torch.dtype) -> _Grain:
        info = torch.finfo(dtype)
        return cls(info.eps, info.smallest_normal, info.bits // 8)


@dataclass
class Error:
    """Pooled error of one output over the cases of one kind. `number`: of the case that has the largest."""

    squares: float = 0.0
    count: int = 0
    largest: float = 0.0
    where: str = ""
    number: int = 0
    off: int = 0  # elements that are not the oracle's; only counted where it is rounded as eager is

    def add(self, errors: torch.Tensor, where: str = "", count: int | None = None) -> None:
        """Take in one case's absolute errors; `count` says how many of them count, the others being 0."""
        if errors.numel() == 0:
            return
        self.squares += float(errors.square().sum())
        self.count += errors.numel() if count is None else count
        top = float(errors.max())
        if top > self.largest:
            self.largest, self.where = top, where

    def merge(self, other: Error) -> None:
        """Take in the errors of another case."""
        self.squares += other.squares
        self.count += other.count
        self.off += other.off
        if other.largest > self.largest:
            self.largest, self.where, self.number = other.largest, other.where, other.number

    def outdo(self, other: Error, factor: float) -> None:
        """Take in so many times the errors of a case that stands for this one: the larger of either measure counts."""
        if factor * other.rms > self.rms:
            self.squares, self.count = factor**2 * other.squares, other.count
        self.largest = max(self.largest, factor * other.largest)

    @property
    def rms(self) -> float:
        """Root of the mean square."""
        return math.sqrt(self.squares / self.count) if self.count else 0.0


@dataclass
class Expected:
    """What is known of one output of one case. All float64 (or complex128) except `eager`."""

    eager: torch.Tensor
    oracle: torch.Tensor
    variants: list[torch.Tensor] = field(default_factory=list)
    low: torch.Tensor | None = None  # what is missing from the oracle, for float64 outputs
    eager_error: torch.Tensor | None = None  # given for float64 outputs where the oracle is eager
    absolute: torch.Tensor | None = None
    decomposed: Callable[[], torch.Tensor | None] = lambda: None  # only called where Inf and NaN are not eager's
    overflowing: Callable[[], torch.Tensor | None] = lambda: None  # likewise

    def to(self, device: torch.device) -> Expected:
        """The same, on that device."""
        return self if self.eager.device == device else self.map(lambda t: t.to(device))

    def map(self, f: Callable[[torch.Tensor], torch.Tensor]) -> Expected:
        """`f` of every tensor."""

        def lazily(what: Callable[[], torch.Tensor | None]) -> Callable[[], torch.Tensor | None]:
            def mapped() -> torch.Tensor | None:
                found = what()
                return None if found is None else f(found)

            return mapped

        return Expected(
            f(self.eager),
            f(self.oracle),
            [f(v) for v in self.variants],
            None if self.low is None else f(self.low),
            None if self.eager_error is None else f(self.eager_error),
            None if self.absolute is None else f(self.absolute),
            lazily(self.decomposed),
            lazily(self.overflowing),
        )


class _Elements:
    """An output's elements in the order in which eager's lie in memory."""

    def __init__(self, eager: torch.Tensor, first_row: int = 0) -> None:
        self.first_row = first_row
        order = shapes.memory_order(eager.shape, eager.stride())
        self.order = tuple(range(eager.dim())) if order is None else order
        self.shape = eager.shape

    def flat(self, t: torch.Tensor) -> torch.Tensor:
        """The tensor's elements in that order."""
        return t.permute(self.order).reshape(-1)

    def index(self, position: int) -> list[int]:
        """Where the element of that number stands."""
        where = [0] * len(self.order)
        for d in reversed(self.order):
            position, where[d] = divmod(position, self.shape[d])
        return [w + self.first_row if d == 0 else w for d, w in enumerate(where)]


def furthest(kernel: torch.Tensor, eager: torch.Tensor) -> list[int]:
    """Where the two differ most, or in kind: an element of theirs."""
    kernel, eager = _comparable(kernel), _comparable(eager)
    among = _Elements(eager)
    a, b = among.flat(kernel), among.flat(eager)
    worst, at = -1.0, 0
    for start in range(0, a.numel(), CHUNK[a.device.type]):
        x, y = (t[start : start + CHUNK[a.device.type]] for t in (a, b))
        apart = (x - y).abs_() if x.is_floating_point() else (x != y).float()
        most = float(apart.max())
        if not math.isfinite(most):
            other_kind = ~_same_kind(x, y)
            if bool(other_kind.any()):
                return among.index(start + int(other_kind.nonzero()[0]))
            apart = apart.nan_to_num_(0.0, 0.0, 0.0)
            most = float(apart.max())
        if most > worst:
            worst, at = most, start + int(apart.argmax())
    return among.index(at)


class Contract:
    """Collects the cases of one kind, and says what breaks the contract, or nothing.

    relative: each element's error counts in units of its magnitude.
    """

    def __init__(self, rule: Rule, rtol: float, slack: float, relative: bool = False) -> None:
        self.rule = rule
        self.rtol = rtol
        self.slack = slack
        self.kernel_errors: dict[int, Error] = {}
        self.eager_errors: dict[int, Error] = {}
        self.scales: dict[int, Error] = {}
        self.relative = relative
        self.culprit: int | None = None  # the case with the largest error of what `finish` complains about
        self.hopeless = False  # whether looking again would be in vain

    def add(
        self,
        output: int,
        kernel: torch.Tensor,
        expected: Expected,
        case: str,
        absolute: Callable[[], torch.Tensor] | None = None,
        *,
        first_row: int = 0,
        number: int = 0,
    ) -> str | None:
        """Take in one output of one case, or a slice of it; a reason if it is wrong whatever the other cases say.

        `absolute` evaluates the oracle on absolute values: only called if the case would not pass without. `first_row`:
        where the slice begins. `number`: the case's.
        """
        name = f"output {output} on {case}"
        dtype = kernel.dtype
        modulus: torch.Tensor | None = None
        if dtype.is_complex:
            modulus = expected.oracle.abs().unsqueeze(-1).expand(*kernel.shape, 2)
        kernel, expected = _comparable(kernel), expected.map(_comparable)
        among = _Elements(expected.eager, first_row)
        kernel, expected = among.flat(kernel), expected.map(among.flat)
        expected.absolute = None if modulus is None else among.flat(modulus)
        if kernel.dtype == torch.bool and bool((kernel.view(torch.uint8) > 1).any()):
            return f"{name}: bytes of a bool that are neither 0 nor 1"
        if not kernel.dtype.is_floating_point:
            return self._exact(kernel, expected, name, among)
        if self.rule is Rule.EXACT:
            same = _same_bits(kernel, expected.eager)
            return None if bool(same.all()) else f"{name}: {_first(same, kernel, expected, among)}, must be bit-equal"
        wrong = _special_values(kernel, expected, among, dtype)
        if wrong is not None:
            return f"{name}: {wrong}"

        def with_absolute() -> None:
            assert absolute is not None
            found = absolute()
            found = among.flat(found.abs().unsqueeze(-1).expand(*found.shape, 2) if modulus is not None else found)
            expected.absolute = found if expected.absolute is None else torch.fmax(found, expected.absolute)

        grain = _Grain.of(dtype.to_real() if dtype.is_complex else dtype)
        if self.relative and absolute is not None:
            with_absolute()
        errors = self._pieces(kernel, expected, name, among, grain)
        again = self.rule in (Rule.BOUNDED, Rule.STAGED) and _over(*errors) and not self.relative
        if again and absolute is not None:
            with_absolute()
            errors = self._pieces(kernel, expected, name, among, grain)
        errors[0].number = number
        self.kernel_errors.setdefault(output, Error()).merge(errors[0])
        self.eager_errors.setdefault(output, Error()).merge(errors[1])
        if self.rule is Rule.FAST:
            finite = expected.oracle[expected.oracle.isfinite()].abs()
            self.scales.setdefault(output, Error()).add(finite)
        return None

    def merge(self, other: Contract) -> None:
        """Take in what another one has taken in, of the same rule."""
        for mine, its in (
            (self.kernel_errors, other.kernel_errors),
            (self.eager_errors, other.eager_errors),
            (self.scales, other.scales),
        ):
            for output, error in its.items():
                mine.setdefault(output, Error()).merge(error)

    def stand_in(self, near: Contract) -> None:
        """Let eager's errors on a neighbour, or on it, stand for those on the one case that this has taken in."""
        for output, error in near.eager_errors.items():
            self.eager_errors.setdefault(output, Error()).outdo(error, _STAND_IN)

    def finish(self) -> str | None:
        """What breaks the contract over all cases taken in."""
        for output, kernel in self.kernel_errors.items():
            eager = self.eager_errors[output]
            scale = self.scales.get(output, Error())
            for what, got, allowed in (
                ("largest", kernel.largest, FACTOR * eager.largest + self.rtol * scale.largest),
                ("RMS", kernel.rms, FACTOR * eager.rms + self.rtol * scale.rms),
            ):
                if got > allowed:
                    self.culprit = kernel.number
                    self.hopeless = self._is_hopeless(kernel, eager)
                    what = f"{what} relative" if self.relative else what
                    return f"{kernel.where}; {what} error {got:.3g} above the floor, allowed {allowed:.3g}"
            if kernel.off > FACTOR * eager.off + _NEAR_TIES * kernel.count + _FEWEST_OFF:
                self.culprit = kernel.number
                return (
                    f"output {output} is rounded elsewhere than eager: {kernel.off} of {kernel.count} elements differ"
                )
        return None

    @staticmethod
    def _is_hopeless(kernel: Error, eager: Error) -> bool:
        """So far off by both measures that no draw's luck explains it, and none need be drawn anew."""
        telling = eager.count >= _TELLING
        return telling and kernel.largest > _HOPELESS * eager.largest > 0 and kernel.rms > _HOPELESS * eager.rms

    def _pieces(
        self, kernel: torch.Tensor, expected: Expected, name: str, among: _Elements, grain: _Grain
    ) -> tuple[Error, Error]:
        """The kernel's errors above the floor and eager's errors, in one case."""
        kernels, eagers = Error(), Error()
        for start in range(0, kernel.numel(), CHUNK[kernel.device.type]):
            part, wanted, absolute = _chunk(kernel, expected, start)
            found = _errors(part, wanted, absolute, self.slack, grain)
            error_k, error_e = found.kernel_counted, found.eager_counted
            if self.relative:
                scale = _magnitude(wanted, absolute).clamp_min_(grain.smallest)
                error_k, error_e = (e.div(scale).nan_to_num_(0.0, 0.0, 0.0) for e in (error_k, error_e))
            worst = ""
            if float(error_k.max()) > kernels.largest:
                flat = start + int(error_k.argmax())
                got, want, eager = (float(t[flat]) for t in (kernel, expected.oracle, expected.eager))
                worst = f"{name}, element {among.index(flat)}: got {got:.9g}, "
                worst += f"oracle {want:.9g}, eager {eager:.9g}"
            kernels.add(error_k, worst, _number(found.counted))
            eagers.add(error_e, count=_number(found.counted_eager))
            if self.rule is Rule.STAGED and grain.bytes <= 2:
                kernels.off += _off(part, wanted)
                eagers.off += _off(wanted.eager, wanted)
        return kernels, eagers

    def _exact(self, kernel: torch.Tensor, expected: Expected, name: str, among: _Elements) -> str | None:
        same = kernel == expected.eager
        if expected.oracle.dtype == kernel.dtype:
            same |= kernel == expected.oracle
        for variant in expected.variants:
            same |= variant != expected.oracle
        return None if bool(same.all()) else f"{name}: {_first(same, kernel, expected, among)}"


def _off(values: torch.Tensor, expected: Expected) -> int:
    """How many are not the oracle's, nor on the way over a jump."""
    differs = (values.double() != expected.oracle) & values.isfinite() & expected.oracle.isfinite()
    for variant in expected.variants:
        differs &= variant == expected.oracle
    return int(differs.sum())


def _first(same: torch.Tensor, kernel: torch.Tensor, expected: Expected, among: _Elements) -> str:
    bad = ~same
    flat = int(bad.nonzero()[0])
    got, want = kernel[flat].item(), expected.eager[flat].item()
    return f"element {among.index(flat)} is {got}, eager {want} ({int(bad.sum())} of {bad.numel()} differ)"


def _comparable(t: torch.Tensor) -> torch.Tensor:
    """The same values in a dtype that torch can compare: pairs of reals, wider floats, integers with a sign."""
    if t.dtype.is_complex:
        return torch.view_as_real(t.resolve_conj())
    if t.dtype.is_floating_point and t.element_size() == 1:
        return t.float()
    return t.view(_SIGNED[t.dtype]) if t.dtype in _SIGNED else t


_SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _same_bits(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Where two tensors hold the same bits, or both NaN."""
    bits = _BITS[a.element_size()]
    same = a.contiguous().view(bits) == b.contiguous().view(bits)
    return same | (a.isnan() & b.isnan()) if a.is_floating_point() else same


def same_values(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors of one form hold the same bits everywhere, but for the bits of a NaN."""
    return bool(_same_bits(_comparable(a), _comparable(b)).all())


def same_where(a: torch.Tensor, of_a: int, b: torch.Tensor, of_b: int) -> bool:
    """Whether there is an element all of whose bytes are one value in `a`, and another in `b`."""
    a, b = (t.contiguous().view(-1).view(torch.uint8).view(-1, t.element_size()) for t in (a, b))
    return bool(((a == of_a) & (b == of_b)).all(1).any())


def _special_values(kernel: torch.Tensor, expected: Expected, among: _Elements, dtype: torch.dtype) -> str | None:
    """Inf and NaN must be where eager or an oracle has them (see the module's docstring)."""
    finite = kernel.isfinite()
    if bool(finite.all()) and bool(expected.eager.isfinite().all()):
        return None

    def stored(oracle: torch.Tensor) -> torch.Tensor:
        """As the output's dtype holds it."""
        return (oracle if dtype.is_complex else oracle.to(dtype)).to(kernel.dtype)

    same = _same_kind(kernel, expected.eager) | _same_kind(kernel, stored(expected.oracle))
    # An intermediate left eager's range: which of Inf and NaN comes of that depends on where roundings fell.
    same |= ~finite & ~expected.eager.isfinite() & ~_same_kind(expected.eager, expected.oracle)
    same |= _still_in_range(kernel, expected, dtype)
    for variant in expected.variants:
        same |= ~((variant == expected.oracle) | (variant.isnan() & expected.oracle.isnan()))
    if bool(same.all()):
        return None
    overflowing = expected.overflowing()
    if overflowing is not None:
        same |= ~finite & expected.eager.isfinite() & ~stored(overflowing).isfinite()
    if bool(same.all()):
        return None
    decomposed = expected.decomposed()
    if decomposed is not None:
        other = stored(decomposed)
        neither = ~finite & ~expected.eager.isfinite() & ~other.isfinite()
        same |= _same_kind(kernel, other) | (neither & ~_same_kind(expected.eager, other))
    return None if bool(same.all()) else _first(same, kernel, expected, among)


def _still_in_range(kernel: torch.Tensor, expected: Expected, dtype: torch.dtype) -> torch.Tensor:
    """Where eager and the oracle have just left the range that the kernel has not quite left."""
    most = torch.finfo(dtype).max
    inside = kernel.isfinite() & (kernel.double().abs() >= most * (1 - _HARDLY))
    beyond = expected.oracle.isfinite() & (expected.oracle.double().abs() / most <= 1 + _HARDLY)
    return inside & beyond & ~expected.eager.isfinite() & (kernel.sign() == expected.oracle.sign())


def _same_kind(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Where both are NaN, the same infinity, or finite."""
    return (a.isnan() & b.isnan()) | (a.isinf() & (a == b)) | (a.isfinite() & b.isfinite())


def _chunk(kernel: torch.Tensor, expected: Expected, start: int) -> tuple[torch.Tensor, Expected, torch.Tensor | None]:
    """A piece of an output: the comparison makes a dozen passes over it, and as many copies."""

    def piece(t: torch.Tensor) -> torch.Tensor:
        return t[start : start + CHUNK[kernel.device.type]]

    part = expected.map(piece)
    return piece(kernel), part, part.absolute


def _over(kernels: Error, eagers: Error) -> bool:
    return kernels.largest > FACTOR * eagers.largest or kernels.rms > FACTOR * eagers.rms


@dataclass
class _Errors:
    """The kernel's errors above the floor, eager's errors, and the masks of the elements that count (None: all)."""

    kernel: torch.Tensor
    eager: torch.Tensor
    counted: torch.Tensor | None
    counted_eager: torch.Tensor | None

    @property
    def kernel_counted(self) -> torch.Tensor:
        """The kernel's errors, 0 where they do not count. (To pick them out would take ten times as long.)"""
        return self.kernel if self.counted is None else self.kernel.where(self.counted, 0.0)

    @property
    def eager_counted(self) -> torch.Tensor:
        """Eager's, likewise."""
        return self.eager if self.counted_eager is None else self.eager.where(self.counted_eager, 0.0)


def _number(counted: torch.Tensor | None) -> int | None:
    return None if counted is None else int(counted.sum())


def _magnitude(expected: Expected, absolute: torch.Tensor | None) -> torch.Tensor:
    """How large the values are that each element came of."""
    magnitude = expected.oracle.double().abs()
    if absolute is not None:
        magnitude = torch.fmax(magnitude, absolute.double().abs().nan_to_num(0.0, 0.0, 0.0))
    return magnitude


def _errors(
    kernel: torch.Tensor, expected: Expected, absolute: torch.Tensor | None, slack: float, grain: _Grain
) -> _Errors:
    o = expected.oracle.double()
    error_k = _apart(kernel, o, expected.low)
    error_e = _apart(expected.eager, o, expected.low) if expected.eager_error is None else expected.eager_error
    # A sum is finite exactly when all are: one pass instead of three over what is nearly always finite.
    counted = None if math.isfinite(error_k.sum()) else error_k.isfinite()
    for_e = None if math.isfinite(error_e.sum()) else error_e.isfinite()
    undecided, low, high = torch.zeros((), dtype=torch.bool, device=o.device), o, o
    for v in expected.variants:
        undecided = undecided | (v != o)
        low, high = torch.fmin(low, v.double()), torch.fmax(high, v.double())
    if bool(undecided.any()):
        # On neither side of a jump, but between: no further outside the two sides than they are apart.
        outside = torch.maximum(low - kernel, kernel - high).clamp_min_(0.0) - (high - low)
        error_k = torch.where(undecided, outside.clamp_min_(0.0), error_k)
        for_e = ~undecided if for_e is None else for_e & ~undecided
    magnitude = _magnitude(expected, absolute)
    floor = slack * FLOOR[grain.bytes]
    error_k = error_k.sub_(magnitude.mul_(floor * grain.eps)).sub_(grain.smallest * grain.eps).clamp_min_(0.0)
    return _Errors(error_k, error_e, counted, for_e)


def _apart(values: torch.Tensor, oracle: torch.Tensor, low: torch.Tensor | None) -> torch.Tensor:
    apart = values.double() - oracle
    return apart.abs_() if low is None else apart.sub_(low).abs_()
