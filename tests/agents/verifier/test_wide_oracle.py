"""Twice float64's digits: functions against many more, operators against eager, and what has no such oracle."""

from __future__ import annotations

import math
from collections.abc import Callable

import mpmath
import pytest
import torch

from akg_dynamo.agents.verifier import double_double as dd
from akg_dynamo.agents.verifier.wide_oracle import NoWideOracle, Wide, halves, widen

F = torch.nn.functional


def _pairs(n: int, scale: float, seed: int = 0) -> dd.Pair:
    generator = torch.Generator().manual_seed(seed)
    hi = torch.randn(n, generator=generator, dtype=torch.float64) * scale
    return dd.Pair(hi, hi * 1e-17 * torch.randn(n, generator=generator, dtype=torch.float64))


def _numbers(pair: dd.Pair) -> list[mpmath.mpf]:
    return [mpmath.mpf(h) + mpmath.mpf(low) for h, low in zip(pair.hi.tolist(), pair.lo.tolist(), strict=True)]


def _last_bits(found: dd.Pair, exact: list[mpmath.mpf]) -> float:
    """The largest relative error, as a power of two."""
    worst = max(abs(a - b) / abs(b) for a, b in zip(_numbers(found), exact, strict=True))
    return float(mpmath.log(worst, 2)) if worst else -math.inf


FUNCTIONS: dict[str, tuple[Callable[[dd.Pair], dd.Pair], Callable[[mpmath.mpf], mpmath.mpf], float]] = {
    "exp": (dd.exp, mpmath.exp, -96),
    "expm1": (dd.exp_minus_one, mpmath.expm1, -96),
    "log": (lambda x: dd.log(dd.magnitude(x)), lambda x: mpmath.log(abs(x)), -96),
    "log1p": (lambda x: dd.log_one_plus(dd.magnitude(x)), lambda x: mpmath.log1p(abs(x)), -96),
    "tanh": (dd.tanh, mpmath.tanh, -96),
    "erf": (dd.erf, mpmath.erf, -96),
    "sin": (lambda x: dd.sine_and_cosine(x)[0], mpmath.sin, -88),
    "cos": (lambda x: dd.sine_and_cosine(x)[1], mpmath.cos, -88),
    "root": (lambda x: dd.root(dd.magnitude(x)), lambda x: mpmath.sqrt(abs(x)), -102),
    "power": (lambda x: dd.power(x, -3), lambda x: x**-3, -100),
}


@pytest.mark.parametrize("scale", [1e-9, 0.1, 1.0, 30.0])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_have_twice_the_digits(name: str, scale: float) -> None:
    function, exact, bits = FUNCTIONS[name]
    x = _pairs(100, scale)
    with mpmath.workprec(400):
        assert _last_bits(function(x), [exact(v) for v in _numbers(x)]) < bits


def test_arithmetic_has_twice_the_digits() -> None:
    x, y = _pairs(300, 3.0), _pairs(300, 3.0, seed=1)
    with mpmath.workprec(400):
        a, b = _numbers(x), _numbers(y)
        assert _last_bits(dd.add(x, y), [p + q for p, q in zip(a, b, strict=True)]) < -102
        assert _last_bits(dd.multiply(x, y), [p * q for p, q in zip(a, b, strict=True)]) < -102
        assert _last_bits(dd.divide(x, y), [p / q for p, q in zip(a, b, strict=True)]) < -102
        close = dd.Pair(-x.hi, -x.lo + x.hi * 1e-19)
        assert _last_bits(dd.add(x, close), [p + q for p, q in zip(a, _numbers(close), strict=True)]) < -80


SPECIAL = [math.inf, -math.inf, math.nan, 0.0, 1e300, 1e-310, -1e300]


@pytest.mark.parametrize(
    ("wide", "plain"),
    [
        (dd.exp, torch.exp), (dd.exp_minus_one, torch.expm1), (dd.log, torch.log), (dd.log_one_plus, torch.log1p),
        (dd.tanh, torch.tanh), (dd.erf, torch.erf), (dd.root, torch.sqrt), (dd.floor, torch.floor),
        (dd.rounded, torch.round), (dd.magnitude, torch.abs), (lambda x: dd.add(x, x), lambda x: x + x),
        (lambda x: dd.multiply(x, x), lambda x: x * x), (lambda x: dd.divide(x, x), lambda x: x / x),
    ],
)  # fmt: skip
def test_what_leaves_the_range_is_what_float64_makes_of_it(
    wide: Callable[[dd.Pair], dd.Pair], plain: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    x = torch.tensor(SPECIAL, dtype=torch.float64)
    found = wide(dd.exact(x))
    torch.testing.assert_close(found.hi, plain(x), rtol=1e-9, atol=0, equal_nan=True)
    assert bool(found.lo.isfinite().all())


X = torch.randn(8, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
W = torch.randn(64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
IMAGE = torch.randn(2, 6, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

OPERATORS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "softmax": lambda x: torch.softmax(x, -1),
    "log_softmax": lambda x: torch.log_softmax(x, -1),
    "layer_norm": lambda x: F.layer_norm(x, (64,), widen(W), widen(W)),
    "gelu": F.gelu,
    "gelu by tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "softplus": F.softplus,
    "hardswish": F.hardswish,
    "product": lambda x: x @ x.t(),
    "linear": lambda x: F.linear(x, x),
    "logsumexp": lambda x: torch.logsumexp(x, 1),
    "var": lambda x: torch.var(x, 1),
    "std": torch.std,
    "cumsum": lambda x: torch.cumsum(x, 1),
    "attention": lambda x: F.scaled_dot_product_attention(*(x.view(1, 2, 4, 64),) * 3),
    "a power": lambda x: torch.pow(x.abs(), 1.7),
    "cross entropy": lambda x: F.cross_entropy(x, torch.arange(8)),
    "glu": F.glu,
    "joined": lambda x: torch.cat([x, x * 2, torch.ones(8, 3, dtype=torch.float64)], 1),
    "chosen": lambda x: torch.where(x > 0, x, x.exp()),
    "remainder": lambda x: 1 - x * 2,
}


@pytest.mark.parametrize("name", OPERATORS)
def test_eager_is_within_its_own_digits_of_the_oracle(name: str) -> None:
    """And nowhere nearer than float64 can be: the low half is not empty where operators round."""
    with torch.no_grad():
        eager, (high, low) = OPERATORS[name](X), halves(OPERATORS[name](widen(X)))
    assert low is not None
    assert (high.shape, high.dtype) == (eager.shape, torch.float64)
    scale = float(eager.abs().max())
    assert float(((eager - high) - low).abs().max()) < 1e-14 * scale
    assert float(low.abs().max()) <= 2**-52 * scale


@pytest.mark.parametrize(
    "function", [lambda x: x.argmax(1), lambda x: x > 0.5, lambda x: x.max(1)[1], lambda x: x.long(), torch.isnan]
)
def test_what_is_no_float_is_plain(function: Callable[[torch.Tensor], torch.Tensor]) -> None:
    found = function(widen(X))
    assert type(found) is torch.Tensor
    assert torch.equal(found, function(X))


def test_a_tie_in_float64_is_decided_by_the_lost_digits() -> None:
    hi = torch.ones(3, dtype=torch.float64)
    x = Wide(hi, torch.tensor([0.0, 1e-20, -1e-20], dtype=torch.float64))
    assert int(x.argmax()) == 1
    assert (x > 1.0).tolist() == [False, True, False]
    assert x.floor().hi.tolist() == [1.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (torch.lgamma, "lgamma"),
        (lambda x: F.conv2d(x, widen(torch.ones(1, 6, 3, 3, dtype=torch.float64))), "convolution"),
        (lambda x: (x * 1e9).sin(), "very large"),
    ],
)
def test_what_cannot_be_evaluated_is_named(function: Callable[[torch.Tensor], torch.Tensor], name: str) -> None:
    with pytest.raises(NoWideOracle, match=name):
        function(widen(IMAGE))
