"""The operators on the list are exact in eager: the same bits in every layout, and those of exact arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch

from akg_dynamo.agents.verifier.exactness import MOVING, ROUNDED_ONCE, SELECTING, is_exact
from akg_dynamo.core.types import Ref, Subgraph, TensorSpec

from .kernels import contiguous, op, single

DEVICES = pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")],
        ),
    ],
)
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
LENGTHS = (1, 7, 16, 17, 33, 1000, 40_001)  # below a vector, at its ends, in several threads' shares

UNARY: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "neg": torch.neg, "abs": torch.abs, "relu": torch.relu, "clamp": lambda x: x.clamp(-0.5, 2.5),
    "clamp_min": lambda x: x.clamp_min(0.0), "clamp_max": lambda x: x.clamp_max(0.25), "floor": torch.floor,
    "ceil": torch.ceil, "trunc": torch.trunc, "round": torch.round, "sign": torch.sign, "isnan": torch.isnan,
    "isinf": torch.isinf, "isfinite": torch.isfinite, "logical_not": torch.logical_not,
    "threshold": lambda x: torch.nn.functional.threshold(x, 0.1, 20.0),
    "masked_fill": lambda x: x.masked_fill(x > 1, 3.0),
    "mul": lambda x: x * 0.1, "add": lambda x: x + 0.1, "sub": lambda x: x - 0.1, "rsub": lambda x: 1 - x,
    "_to_copy": lambda x: x.to(torch.bfloat16 if x.element_size() > 2 else torch.float32),
}  # fmt: skip
BINARY: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div, "rsub": torch.rsub,
    "where": lambda a, b: torch.where(a > b, a, b), "eq": torch.eq, "ne": torch.ne, "lt": torch.lt, "le": torch.le,
    "gt": torch.gt, "ge": torch.ge, "logical_and": torch.logical_and, "logical_or": torch.logical_or,
    "logical_xor": torch.logical_xor,
    "threshold_backward": lambda a, b: torch.ops.aten.threshold_backward(a, b, 0.0),
}  # fmt: skip
INTEGER = {"bitwise_not", "bitwise_and", "bitwise_or", "bitwise_xor"}


def _values(n: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    """Magnitudes over many binades, and among them every special value, often."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.randint(-20, 20, (n,), generator=generator).double()
    x = (torch.randn(n, generator=generator, dtype=torch.float64) * torch.exp2(spread)).to(dtype)
    f = torch.finfo(dtype)
    special = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.5,
        1.5,
        2.5,
        -2.5,
        f.max,
        -f.max,
        f.tiny,
        -f.tiny,
        f.tiny * f.eps,
        f.eps,
        1 + f.eps,
    ]
    special += [math.inf, -math.inf, math.nan, 1 / 3]
    chosen = torch.tensor(special, dtype=torch.float64).to(dtype)[
        torch.randint(len(special), (n,), generator=generator)
    ]
    return torch.where(torch.rand(n, generator=generator) < 0.3, chosen, x)


def _laid_out(x: torch.Tensor) -> list[torch.Tensor]:
    """The same values, strided, and an element past an aligned address."""
    n = len(x)
    strided = x.new_empty(3 * n + 1)[1::3].copy_(x)
    beside = x.new_empty(n + 1)[1:].copy_(x)
    return [strided, beside]


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    if not a.is_floating_point():
        return torch.equal(a, b)
    bits = BITS[a.element_size()]
    return bool(((a.contiguous().view(bits) == b.contiguous().view(bits)) | (a.isnan() & b.isnan())).all())


@DEVICES
@DTYPES
@pytest.mark.parametrize("name", UNARY)
def test_a_unary_operator_gives_the_same_bits_wherever_an_element_lies(
    name: str, dtype: torch.dtype, device: str
) -> None:
    function = UNARY[name]
    for n in LENGTHS:
        x = _values(n, dtype, n).to(device)
        whole = function(x)
        assert all(_same(function(other), whole) for other in _laid_out(x))
        assert _same(torch.cat([function(x[i : i + 1]) for i in range(min(n, 40))]), whole[:40])


@DEVICES
@DTYPES
@pytest.mark.parametrize("name", BINARY)
def test_a_binary_operator_gives_the_same_bits_wherever_an_element_lies(
    name: str, dtype: torch.dtype, device: str
) -> None:
    function = BINARY[name]
    for n in LENGTHS:
        a, b = _values(n, dtype, n).to(device), _values(n, dtype, n + 1).to(device)
        whole = function(a, b)
        for x, y in zip([*_laid_out(a), a], [*_laid_out(b), _laid_out(b)[0]], strict=True):
            assert _same(function(x, y), whole)
        assert _same(torch.cat([function(a[i : i + 1], b[i : i + 1]) for i in range(min(n, 40))]), whole[:40])


EXACTLY: dict[str, Callable[[Fraction, Fraction], Fraction | None]] = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "rsub": lambda a, b: b - a, "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b if b else None,
}  # fmt: skip


@DEVICES
@DTYPES
@pytest.mark.parametrize("name", EXACTLY)
def test_what_rounds_rounds_once_and_to_nearest(name: str, dtype: torch.dtype, device: str) -> None:
    """No neighbour of the result is nearer to the exact value."""
    a, b = _values(300, dtype, 5), _values(300, dtype, 6)
    found = BINARY[name](a.to(device), b.to(device)).cpu()
    finite = a.isfinite() & b.isfinite() & found.isfinite()
    assert int(finite.sum()) > 150
    up, down = (
        (found.nextafter(torch.full_like(found, end)) for end in (math.inf, -math.inf))
        if (dtype not in (torch.bfloat16, torch.float16))
        else _neighbours(found)
    )
    for x, y, r, above, below in zip(*(t[finite].tolist() for t in (a, b, found, up, down)), strict=True):
        exact = EXACTLY[name](Fraction(x), Fraction(y))
        if exact is None:
            continue
        error = abs(Fraction(r) - exact)
        assert all(abs(Fraction(other) - exact) >= error for other in (above, below) if math.isfinite(other))


def _neighbours(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The next larger and the next smaller number, of two bytes."""
    bits = x.view(torch.int16)
    outward, inward = (bits + 1).view(x.dtype), (bits - 1).view(x.dtype)
    return torch.where(x == 0, outward, torch.maximum(outward, inward)), torch.where(
        x == 0, -outward.abs(), torch.minimum(outward, inward)
    )


def test_every_operator_on_the_list_is_proved_or_only_moves() -> None:
    assert not (ROUNDED_ONCE | SELECTING) - (UNARY.keys() | BINARY.keys() | INTEGER)
    assert not (ROUNDED_ONCE | SELECTING) & MOVING


def test_what_is_not_on_the_list_differs_by_layout() -> None:
    """Why there is a list."""
    differs = []
    for name, function in {"sigmoid": torch.sigmoid, "maximum": _maximum}.items():
        x = _values(4099, torch.float32, 1)
        if any(not _same(function(other), function(x)) for other in _laid_out(x)):
            differs.append(name)
        s = contiguous("float32", 4)
        assert not is_exact(single(f"aten.{name}.default", s, s))
    assert "sigmoid" in differs
    x = torch.rand(4099) * 100
    root = single("aten.sqrt.default", contiguous("float32", 4), contiguous("float32", 4))
    assert _same(x.sqrt(), x.double().sqrt().float()) or not is_exact(root)  # a vector library's, a last bit off


def _maximum(x: torch.Tensor) -> torch.Tensor:
    return torch.maximum(x, torch.zeros_like(x))


S = contiguous("float32", 8)


@pytest.mark.parametrize(
    ("sub", "exact"),
    [
        (single("aten.add.Tensor", S, S, S), True),
        (single("aten.add.Tensor", S, S, S, extra=(2.0,)), False),
        (Subgraph((S, S), (), (op("aten.add.Tensor", S, Ref(0), Ref(1), alpha=2),), (2,)), False),
        (Subgraph((S,), (), (op("aten.div.Tensor", S, Ref(0), 3.0),), (1,)), False),
        (Subgraph((S,), (), (op("aten.mul.Tensor", S, Ref(0), 3.0),), (1,)), True),
        (Subgraph((S, S), (), (op("aten.div.Tensor_mode", S, Ref(0), Ref(1), rounding_mode="floor"),), (2,)), False),
        (single("aten.add.Tensor", S, S, TensorSpec("bfloat16", (8,), (1,))), False),
        (single("aten.sum.dim_IntList", contiguous("float32", 2), contiguous("float32", 2, 4), extra=((1,),)), False),
        (single("aten.mul.Tensor", *(contiguous("complex64", 8),) * 3), False),
        (single("aten.sqrt.default", S, S), False),
        (
            Subgraph((S, S), (), (op("aten.add.Tensor", S, Ref(0), Ref(1)), op("aten.exp.default", S, Ref(2))), (3,)),
            False,
        ),
    ],
)
def test_which_subgraphs_are_exact(sub: Subgraph, exact: bool) -> None:
    assert is_exact(sub) is exact
