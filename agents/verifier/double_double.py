"""Arithmetic of about 32 decimal digits on torch tensors: a number is the unevaluated sum of two float64 ones.

The algorithms are those of Dekker and Knuth, as in the QD library (Hida, Li and Bailey): sums and products without
error, then renormalised. Relative errors stay below 2^-100 in sums, products, quotients and square roots, and below
2^-96 in the elementary functions, on numbers well inside float64's range; what leaves it becomes what float64 makes of
it, with a low half of zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch

_SPLITTER = 134217729.0  # 2^27 + 1
_LN2 = (0.6931471805599453, 2.3190468138462996e-17)
_HALF_PI = (1.5707963267948966, 6.123233995736766e-17)
_TWO_OVER_ROOT_PI = (1.1283791670955126, 1.533545961316588e-17)
_HALVINGS = 8
_MOST_TURNS = 1 << 20  # of a circle's quarter: beyond, the reduction would lose digits
_MOST_TERMS = 400

Number: TypeAlias = "Pair | float"


class Pair(NamedTuple):
    """hi + lo, where hi is their sum rounded to float64."""

    hi: torch.Tensor
    lo: torch.Tensor


class OutOfReach(Exception):
    """An argument so large that the function's digits are lost."""


def exact(x: torch.Tensor) -> Pair:
    """A float64 (or integer) tensor as a pair."""
    wide = x.double()
    low = torch.zeros_like(wide)
    if x.dtype == torch.int64:  # of which float64 holds 53 bits; the largest would not come back from it
        back = wide.clamp(-(2.0**62), 2.0**62).long()
        low = torch.where(wide.abs() < 2.0**62, (x - back).double(), 0.0)
    return Pair(wide, low)


def _quick_two_sum(a: torch.Tensor, b: torch.Tensor) -> Pair:
    """a + b without error where |a| >= |b|."""
    s = a + b
    low = b - (s - a)
    return Pair(s, torch.where(low.isfinite(), low, 0.0))


def _two_sum(a: torch.Tensor, b: torch.Tensor) -> Pair:
    s = a + b
    v = s - a
    return Pair(s, (a - (s - v)) + (b - v))


def _split(a: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    t = a * _SPLITTER
    high = t - (t - a)
    return high, a - high


def _two_product(a: torch.Tensor, b: torch.Tensor) -> Pair:
    p = a * b
    (ah, al), (bh, bl) = _split(a), _split(b)
    return Pair(p, ((ah * bh - p) + ah * bl + al * bh) + al * bl)


def lift(x: Number, like: torch.Tensor) -> Pair:
    """A Python number as a pair."""
    if isinstance(x, Pair):
        return x
    return exact(torch.full((), x, dtype=torch.float64, device=like.device))


def add(a: Pair, b: Pair) -> Pair:
    """The accurate variant, whose relative error does not depend on signs."""
    s, t = _two_sum(a.hi, b.hi), _two_sum(a.lo, b.lo)
    first = _quick_two_sum(s.hi, s.lo + t.hi)
    return _settled(_quick_two_sum(first.hi, first.lo + t.lo), s.hi)


def _settled(found: Pair, plain: torch.Tensor) -> Pair:
    """Where float64's own result is not finite, that."""
    finite = plain.isfinite()
    if bool(finite.all()):
        return found
    return Pair(torch.where(finite, found.hi, plain), torch.where(finite, found.lo, 0.0))


def negative(a: Pair) -> Pair:
    """-a."""
    return Pair(-a.hi, -a.lo)


def subtract(a: Pair, b: Pair) -> Pair:
    """a - b."""
    return add(a, negative(b))


def multiply(a: Pair, b: Pair) -> Pair:
    """a * b."""
    p = _two_product(a.hi, b.hi)
    return _settled(_quick_two_sum(p.hi, p.lo + (a.hi * b.lo + a.lo * b.hi)), p.hi)


def divide(a: Pair, b: Pair) -> Pair:
    """a / b, by long division."""
    first = a.hi / b.hi
    rest = subtract(a, multiply(b, Pair(first, torch.zeros_like(first))))
    second = rest.hi / b.hi
    rest = subtract(rest, multiply(b, Pair(second, torch.zeros_like(second))))
    third = rest.hi / b.hi
    q = _quick_two_sum(first, second)
    found = add(q, Pair(third, torch.zeros_like(third)))
    plain = torch.where(first.isfinite() & found.hi.isfinite(), found.hi, first)
    return Pair(plain, torch.where(found.hi.isfinite(), found.lo, 0.0))


def times(a: Pair, factor: float) -> Pair:
    """a times a power of two."""
    return Pair(a.hi * factor, a.lo * factor)


def root(a: Pair) -> Pair:
    """The square root: one step of Newton's from float64's."""
    x = a.hi.sqrt()
    start = Pair(x, torch.zeros_like(x))
    rest = subtract(a, multiply(start, start))
    step = rest.hi / (2 * x)
    found = _quick_two_sum(x, torch.where(step.isfinite(), step, 0.0))
    return _settled(found, x)


def magnitude(a: Pair) -> Pair:
    """|a|."""
    return choose(_is_negative(a), negative(a), a)


def _is_negative(a: Pair) -> torch.Tensor:
    return (a.hi < 0) | ((a.hi == 0) & (a.lo < 0))


def choose(condition: torch.Tensor, a: Pair, b: Pair) -> Pair:
    """a where the condition holds, b elsewhere."""
    return Pair(torch.where(condition, a.hi, b.hi), torch.where(condition, a.lo, b.lo))


def less(a: Pair, b: Pair) -> torch.Tensor:
    """a < b."""
    return (a.hi < b.hi) | ((a.hi == b.hi) & (a.lo < b.lo))


def equal(a: Pair, b: Pair) -> torch.Tensor:
    """a == b."""
    return (a.hi == b.hi) & (a.lo == b.lo)


def floor(a: Pair) -> Pair:
    """The largest integer that is not above it."""
    high = a.hi.floor()
    low = torch.where(high == a.hi, a.lo.floor(), 0.0)
    return _quick_two_sum(high, low)


def rounded(a: Pair) -> Pair:
    """To the nearest integer, halves to the even one."""
    down = floor(a)
    rest = subtract(a, down)
    half = exact(torch.full_like(rest.hi, 0.5))
    odd = torch.remainder(down.hi, 2.0) + torch.remainder(down.lo, 2.0)
    up = less(half, rest) | (equal(half, rest) & (torch.remainder(odd, 2.0) == 1.0))
    return add(down, exact(up))


# --------------------------------------------------------------------------------------------------------------------
# Reductions


def along(a: Pair, dim: int, combine: Callable[[Pair, Pair], Pair], neutral: float) -> Pair:
    """All elements of a dim combined, half with half; the dim is gone."""
    hi, lo = a.hi.movedim(dim, 0), a.lo.movedim(dim, 0)
    if hi.shape[0] == 0:
        return exact(torch.full(hi.shape[1:], neutral, dtype=torch.float64, device=hi.device))
    while hi.shape[0] > 1:
        half, odd = divmod(hi.shape[0], 2)
        two = combine(Pair(hi[:half], lo[:half]), Pair(hi[half : 2 * half], lo[half : 2 * half]))
        hi, lo = (torch.cat([t, s[2 * half :]]) if odd else t for t, s in zip(two, (hi, lo), strict=True))
    return Pair(hi[0], lo[0])


def total(a: Pair, dims: list[int], *, keepdim: bool) -> Pair:
    """The sum over those dims."""
    for d in sorted(dims, reverse=True):
        a = along(a, d, add, 0.0)
    if keepdim:
        for d in sorted(dims):
            a = Pair(a.hi.unsqueeze(d), a.lo.unsqueeze(d))
    return a


def running(a: Pair, dim: int) -> Pair:
    """Cumulative sums along a dim, in steps that double."""
    hi, lo = a.hi.movedim(dim, 0), a.lo.movedim(dim, 0)
    step = 1
    while step < hi.shape[0]:
        moved = add(Pair(hi[step:], lo[step:]), Pair(hi[:-step], lo[:-step]))
        hi, lo = torch.cat([hi[:step], moved.hi]), torch.cat([lo[:step], moved.lo])
        step *= 2
    return Pair(hi.movedim(0, dim), lo.movedim(0, dim))


def product(a: Pair, b: Pair, at_once: int) -> Pair:
    """Matrix products (…, m, k) x (…, k, n), so many elementwise products at a time."""
    *_, m, k = a.hi.shape
    n = b.hi.shape[-1]
    per_k = max(1, math.prod(a.hi.shape[:-2]) * m * n)
    width = max(1, at_once // per_k)
    found: Pair | None = None
    for start in range(0, k, width):
        left = Pair(*(t[..., start : start + width].unsqueeze(-1) for t in a))
        right = Pair(*(t[..., start : start + width, :].unsqueeze(-3) for t in b))
        part = along(multiply(left, right), -2, add, 0.0)
        found = part if found is None else add(found, part)
    if found is None:
        return exact(a.hi.new_zeros((*a.hi.shape[:-1], n)))
    return found


# --------------------------------------------------------------------------------------------------------------------
# Elementary functions


def _constant(pair: tuple[float, float], like: torch.Tensor) -> Pair:
    return Pair(*(torch.full((), c, dtype=torch.float64, device=like.device) for c in pair))


def _whole(k: torch.Tensor) -> Pair:
    return Pair(k, torch.zeros_like(k))


def exp_minus_one_small(r: Pair) -> Pair:
    """e^r - 1 for |r| <= ln 2: Taylor's series of r / 2^8, squared so many times."""
    r = times(r, 2.0**-_HALVINGS)
    term, s = r, r
    for n in range(2, 11):
        term = divide(multiply(term, r), lift(float(n), r.hi))
        s = add(s, term)
    for _ in range(_HALVINGS):
        s = add(times(s, 2.0), multiply(s, s))
    return s


def exp(a: Pair) -> Pair:
    """e^a."""
    plain = a.hi.exp()
    k = (a.hi / _LN2[0]).clamp(-1100.0, 1100.0).nan_to_num(0.0).round()
    r = subtract(a, multiply(_whole(k), _constant(_LN2, a.hi)))
    one = lift(1.0, a.hi)
    s = add(exp_minus_one_small(Pair(*(t.clamp(-1.0, 1.0) for t in r))), one)
    # in two steps: 2^k alone may be out of range
    half = (k / 2).floor()
    found = Pair(*(torch.ldexp(torch.ldexp(t, half), k - half) for t in s))
    inside = plain.isfinite() & (plain > 0)
    return Pair(torch.where(inside, found.hi, plain), torch.where(inside, found.lo, 0.0))


def exp_minus_one(a: Pair) -> Pair:
    """e^a - 1, with all digits near zero."""
    near = a.hi.abs() < 0.5
    inside = choose(near, a, exact(torch.zeros_like(a.hi)))
    return choose(near, exp_minus_one_small(inside), subtract(exp(a), lift(1.0, a.hi)))


def log(a: Pair) -> Pair:
    """ln a: one step of Newton's from float64's, on the mantissa."""
    plain = a.hi.log()
    mantissa, exponent = torch.frexp(a.hi)
    high = torch.where(mantissa < math.sqrt(0.5), mantissa * 2, mantissa)
    exponent = torch.where(mantissa < math.sqrt(0.5), exponent - 1, exponent)
    inside = plain.isfinite()
    m = Pair(torch.where(inside, high, 1.0), torch.where(inside, torch.ldexp(a.lo, -exponent), 0.0))
    y = m.hi.log()
    step = subtract(multiply(m, exp(_whole(-y))), lift(1.0, y))
    found = add(_whole(y), subtract(step, times(multiply(step, step), 0.5)))
    whole = _whole(torch.where(inside, exponent, 0).double())
    found = add(found, multiply(whole, _constant(_LN2, y)))
    return Pair(torch.where(inside, found.hi, plain), torch.where(inside, found.lo, 0.0))


def log_one_plus(a: Pair) -> Pair:
    """ln(1 + a), with all digits near zero: one step of Newton's from float64's."""
    plain = a.hi.log1p()
    inside = plain.isfinite()
    y = torch.where(inside, plain, 0.0)
    at = choose(inside, a, exact(torch.zeros_like(y)))
    step = divide(subtract(at, exp_minus_one(_whole(y))), exp(_whole(y)))
    found = add(_whole(y), subtract(step, times(multiply(step, step), 0.5)))
    return Pair(torch.where(inside, found.hi, plain), torch.where(inside, found.lo, 0.0))


def tanh(a: Pair) -> Pair:
    """The hyperbolic tangent."""
    within = Pair(a.hi.clamp(-40.0, 40.0), torch.where(a.hi.abs() <= 40.0, a.lo, 0.0))
    e = exp_minus_one(times(within, 2.0))
    return divide(e, add(e, lift(2.0, a.hi)))


def sine_and_cosine(a: Pair) -> tuple[Pair, Pair]:
    """Both, by Taylor's series within an eighth of the circle.

    Raises:
        OutOfReach: an argument is very large.
    """
    turns = (a.hi / _HALF_PI[0]).round()
    plain = a.hi.sin()
    if bool((turns.nan_to_num(0.0, 0.0, 0.0).abs() > _MOST_TURNS).any()):
        raise OutOfReach
    turns = turns.nan_to_num(0.0, 0.0, 0.0)
    r = subtract(Pair(*(t.nan_to_num(0.0, 0.0, 0.0) for t in a)), multiply(_whole(turns), _constant(_HALF_PI, a.hi)))
    square = multiply(r, r)
    sine, cosine = r, exact(torch.ones_like(r.hi))
    s, c = sine, cosine
    for n in range(1, 16):
        s = divide(negative(multiply(s, square)), lift(2.0 * n * (2 * n + 1), r.hi))
        c = divide(negative(multiply(c, square)), lift((2.0 * n - 1) * 2 * n, r.hi))
        sine, cosine = add(sine, s), add(cosine, c)
    quarter = torch.remainder(turns, 4.0)
    odd = (quarter == 1) | (quarter == 3)
    found_s, found_c = choose(odd, cosine, sine), choose(odd, sine, cosine)
    found_s = choose(quarter >= 2, negative(found_s), found_s)
    found_c = choose((quarter == 1) | (quarter == 2), negative(found_c), found_c)
    return _settled(found_s, plain), _settled(found_c, a.hi.cos())


def erf(a: Pair) -> Pair:
    """The error function, by a series whose terms all have one sign; beyond 8.7 it is one."""
    within = Pair(a.hi.clamp(-8.7, 8.7).nan_to_num(0.0), torch.where(a.hi.abs() < 8.7, a.lo, 0.0))
    square = multiply(within, within)
    term = s = within
    for n in range(1, _MOST_TERMS):
        term = divide(multiply(term, times(square, 2.0)), lift(2.0 * n + 1, s.hi))
        s = add(s, term)
        if bool((term.hi.abs() <= s.hi.abs() * 2.0**-107).all()):
            break
    found = multiply(multiply(s, exp(negative(square))), _constant(_TWO_OVER_ROOT_PI, s.hi))
    far = a.hi.abs() >= 8.7
    found = choose(far, exact(a.hi.sign()), found)
    return Pair(torch.where(a.hi.isnan(), a.hi, found.hi), torch.where(a.hi.isnan(), 0.0, found.lo))


def power(a: Pair, n: int) -> Pair:
    """a to a whole power."""
    found: Pair | None = None
    base, left = a, abs(n)
    while left:
        if left & 1:
            found = base if found is None else multiply(found, base)
        left >>= 1
        base = multiply(base, base) if left else base
    one = exact(torch.ones_like(a.hi))
    if found is None:
        return one
    return divide(one, found) if n < 0 else found
