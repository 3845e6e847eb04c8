"""The contract on values: when is a kernel's output right?

`bounded` compares errors, not values. With O the fp64 oracle, E eager's output and K the kernel's: per output tensor,
the RMS and the maximum of |K - O| may be twice those of |E - O|, after a floor of eps * max(|O|, A) is taken off each
element's error, A being the oracle on absolute values. Seeds of one kind are pooled: one scalar sum in a permuted order
has more than twice eager's error every seventh time, thirty-two of them together never.

For float64 outputs nothing better than fp64 is at hand operator by operator. There E stands for O, and eager's error is
measured one precision down: the same program in float32 against float64, times 2^-29.

Where a kind has too few elements to compare two errors statistically, the floor is `slack` times as high.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from akg_dynamo.core.types import TensorSpec

FACTOR = 2.0
# The c of the floor c * eps * A. Eager sometimes accumulates in double and is right to the last bit, where a kernel
# that is as good as its precision allows loses a few. In two bytes the last bits are the rounding of the result alone.
FLOOR_WIDE = 4.0
FLOOR_NARROW = 1.0


@dataclass
class Error:
    """Pooled error of one output over the cases of one kind."""

    squares: float = 0.0
    count: int = 0
    largest: float = 0.0
    where: str = ""

    def add(self, errors: torch.Tensor, where: str = "") -> None:
        """Take in one case's absolute errors."""
        if errors.numel() == 0:
            return
        self.squares += float(errors.square().sum())
        self.count += errors.numel()
        top = float(errors.max())
        if top > self.largest:
            self.largest, self.where = top, where

    @property
    def rms(self) -> float:
        """Root of the mean square."""
        return math.sqrt(self.squares / self.count) if self.count else 0.0


@dataclass
class Expected:
    """What is known of one output of one case. All float64 except `eager`."""

    eager: torch.Tensor
    oracle: torch.Tensor
    variants: list[torch.Tensor] = field(default_factory=list)
    eager_error: torch.Tensor | None = None  # given for float64 outputs
    absolute: torch.Tensor | None = None


def _index_of(flat: int, shape: torch.Size) -> str:
    where = []
    for n in reversed(shape):
        where.append(flat % n)
        flat //= n
    return str(list(reversed(where)))


class Contract:
    """Collects the cases of one kind, and says what breaks the contract, or nothing."""

    def __init__(self, numerics: str, rtol: float, slack: float) -> None:
        self.numerics = numerics
        self.rtol = rtol
        self.slack = slack
        self.kernel_errors: dict[int, Error] = {}
        self.eager_errors: dict[int, Error] = {}
        self.scales: dict[int, Error] = {}

    def needs_absolute(self, kernel: torch.Tensor, expected: Expected) -> bool:
        """Whether the oracle on absolute values can matter: not if the case passes on |O| alone."""
        if self.numerics != "bounded" or not kernel.dtype.is_floating_point:
            return False
        error_k, error_e, _ = _errors(kernel, expected, None, self.slack)
        if error_k.numel() == 0:
            return False
        over = float(error_k.max()) > FACTOR * float(error_e.max() if error_e.numel() else 0.0)
        return over or float(error_k.square().sum()) > FACTOR**2 * float(error_e.square().sum())

    def add(self, output: int, spec: TensorSpec, kernel: torch.Tensor, expected: Expected, case: str) -> str | None:
        """Take in one output of one case; a reason if it is wrong whatever the other cases say."""
        name = f"output {output} on {case}"
        if kernel.dtype == torch.bool and bool((kernel.view(torch.uint8) > 1).any()):
            return f"{name}: bytes of a bool that are neither 0 nor 1"
        if not kernel.dtype.is_floating_point:
            return self._exact(kernel, expected, name)
        if self.numerics == "eager":
            same = (kernel == expected.eager) | (kernel.isnan() & expected.eager.isnan())
            return None if bool(same.all()) else f"{name}: {_first(~same, kernel, expected.eager)}, must be bit-equal"
        wrong = _special_values(kernel, expected)
        if wrong is not None:
            return f"{name}: {wrong}"
        error_k, error_e, at = _errors(kernel, expected, expected.absolute, self.slack)
        worst = ""
        if error_k.numel():
            position = int(error_k.argmax())
            flat = int(at.nonzero()[position]) if at is not None else position
            worst = f"{name}, element {_index_of(flat, kernel.shape)}: got {float(kernel.reshape(-1)[flat]):.9g}, "
            worst += f"oracle {float(expected.oracle.reshape(-1)[flat]):.9g}, "
            worst += f"eager {float(expected.eager.reshape(-1)[flat]):.9g}"
        self.kernel_errors.setdefault(output, Error()).add(error_k, worst)
        self.eager_errors.setdefault(output, Error()).add(error_e)
        if self.numerics == "fast":
            finite = expected.oracle[expected.oracle.isfinite()].abs()
            self.scales.setdefault(output, Error()).add(finite)
        return None

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
                    return f"{kernel.where}; {what} error {got:.3g} above the floor, allowed {allowed:.3g}"
        return None

    def _exact(self, kernel: torch.Tensor, expected: Expected, name: str) -> str | None:
        same = kernel == expected.eager
        if expected.oracle.dtype == kernel.dtype:
            same |= kernel == expected.oracle
        for variant in expected.variants:
            same |= variant != expected.oracle
        return None if bool(same.all()) else f"{name}: {_first(~same, kernel, expected.eager)}"


def _first(bad: torch.Tensor, kernel: torch.Tensor, eager: torch.Tensor) -> str:
    flat = int(bad.reshape(-1).nonzero()[0])
    got, want = kernel.reshape(-1)[flat].item(), eager.reshape(-1)[flat].item()
    return f"element {_index_of(flat, kernel.shape)} is {got}, eager {want} ({int(bad.sum())} of {bad.numel()} differ)"


def _special_values(kernel: torch.Tensor, expected: Expected) -> str | None:
    """Inf and NaN must be where eager or the oracle has them."""
    finite = kernel.isfinite()
    if bool(finite.all()) and bool(expected.eager.isfinite().all()):
        return None
    rounded = expected.oracle.to(kernel.dtype)
    same = torch.zeros_like(finite)
    for other in (expected.eager, rounded):
        same |= (kernel.isnan() & other.isnan()) | (kernel.isinf() & (kernel == other)) | (finite & other.isfinite())
    for variant in expected.variants:
        same |= ~((variant == expected.oracle) | (variant.isnan() & expected.oracle.isnan()))
    return None if bool(same.all()) else _first(~same, kernel, expected.eager)


def _errors(
    kernel: torch.Tensor, expected: Expected, absolute: torch.Tensor | None, slack: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """The kernel's errors above the floor, eager's errors, and the flat mask of the elements that count (None: all)."""
    k, e, o = kernel.reshape(-1).double(), expected.eager.reshape(-1).double(), expected.oracle.reshape(-1).double()
    counted = k.isfinite() & o.isfinite()
    undecided = torch.zeros_like(counted)
    low, high = o, o
    for variant in expected.variants:
        v = variant.reshape(-1).double()
        undecided |= v != o
        low, high = torch.fmin(low, v), torch.fmax(high, v)
    error_k = (k - o).abs()
    if bool(undecided.any()):
        # On neither side of a jump, but between: no further outside the two sides than they are apart.
        width = high - low
        outside = torch.maximum(low - k, k - high).clamp_min(0.0) - width
        error_k = torch.where(undecided, outside.clamp_min(0.0), error_k)
    info = torch.finfo(kernel.dtype)
    magnitude = o.abs()
    if absolute is not None:
        magnitude = torch.fmax(magnitude, absolute.reshape(-1).double().nan_to_num(0.0, 0.0, 0.0))
    floor = slack * (FLOOR_NARROW if kernel.element_size() == 2 else FLOOR_WIDE)
    error_k = (error_k - (floor * info.eps * magnitude + info.smallest_normal * info.eps)).clamp_min(0.0)
    if expected.eager_error is not None:
        error_e = expected.eager_error.reshape(-1)
        for_e = error_e.isfinite()
    else:
        error_e, for_e = (e - o).abs(), e.isfinite() & o.isfinite() & ~undecided
    if not bool(for_e.all()):
        error_e = error_e[for_e]
    if bool(counted.all()):
        return error_k, error_e, None
    return error_k[counted], error_e, counted
