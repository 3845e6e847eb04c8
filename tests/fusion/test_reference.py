"""References: eager's own values, and an oracle in which nothing rounds below float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from graphs import CORRECT, CPU, capture

from akg_dynamo.core.types import Subgraph
from akg_dynamo.fusion.extract import extract
from akg_dynamo.fusion.partition import plan
from akg_dynamo.fusion.reference import reference

X = torch.linspace(-3, 3, 64).view(4, 16)
LABELS = torch.tensor([0, 3, 15, 7])


def one(function: Callable[..., Any], *args: Any, **how: Any) -> Subgraph:
    (gm,) = capture(function, *args, **how)
    (cut,) = extract(gm, plan(gm, target=CPU, options=CORRECT))
    return cut.subgraph


CASES: list[tuple[str, Callable[..., torch.Tensor], tuple[torch.Tensor, ...]]] = [
    ("layer_norm", lambda x: F.layer_norm(x * 2, (16,)), (X,)),
    ("rms_norm", lambda x: F.rms_norm(x * 2, (16,)), (X,)),
    ("group_norm", lambda x: F.group_norm(x * 2, 4), (X,)),
    ("softmax to float", lambda x: torch.softmax(x * 2, -1, dtype=torch.float32), (X.half(),)),
    ("log_softmax", lambda x: F.log_softmax(x.bfloat16(), -1), (X,)),
    ("gelu", lambda x: F.gelu(x, approximate="tanh") + 1, (X,)),
    ("silu", lambda x: F.silu(x) * x, (X,)),
    ("casts", lambda x: (x.half() + 1).float().bfloat16(), (X,)),
    ("integers", lambda i: i / 3 + i.float().sqrt(), (LABELS,)),
    ("nan_to_num", lambda x: torch.nan_to_num(1 / (x - x)), (X,)),
    ("cross entropy", lambda x: F.cross_entropy(x, LABELS), (X,)),
    ("variance", lambda x: torch.var(x, -1) + torch.std(x * 2, -1), (X,)),
    ("arg-max", lambda x: (x * -1).argmax(-1), (X,)),
    ("several", lambda x: (x * 2).max(-1)[0], (X,)),
    ("pad and cat", lambda x: torch.cat([F.pad(x * 2, (1, 2)), F.pad(x, (3, 0))], 0), (X,)),
    ("infinities", lambda x: torch.where(x > 0, x, float("-inf")), (X,)),
]


@pytest.mark.parametrize(("name", "function", "args"), CASES, ids=[c[0] for c in CASES])
def test_reference_is_eager_and_the_oracle_is_eager_in_double(
    name: str, function: Callable[..., torch.Tensor], args: tuple[torch.Tensor, ...]
) -> None:
    sub = one(function, *args)
    (got,) = reference(sub)(*_ordered(sub, args))
    expected = function(*args)
    assert got.dtype == expected.dtype
    assert got.stride() == expected.stride()
    torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True)
    wide = [a.double() if a.is_floating_point() else a for a in _ordered(sub, args)]
    (oracle,) = reference(sub, upcast=True)(*wide)
    assert oracle.dtype == (torch.float64 if expected.is_floating_point() else expected.dtype)
    torch.testing.assert_close(oracle.to(expected.dtype), expected, rtol=2e-2, atol=2e-2, equal_nan=True)
    assert torch.get_default_dtype() == torch.float32


def _ordered(sub: Subgraph, args: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    """Constants of the closure become inputs too."""
    pool = [*args, LABELS]
    found = []
    for spec in sub.inputs:
        match = next(a for a in pool if str(a.dtype) == f"torch.{spec.dtype}" and tuple(a.shape) == spec.shape)
        found.append(match)
    return found


def test_casts_do_not_round_in_the_oracle() -> None:
    sub = one(lambda x: (x.to(torch.bfloat16) + 1).to(torch.float32), X)
    (oracle,) = reference(sub, upcast=True)(X.double())
    torch.testing.assert_close(oracle, X.double() + 1, rtol=0, atol=0)


def test_symbols_are_arguments() -> None:
    sub = one(lambda x: x / x.shape[1] + x.shape[0], torch.randn(6, 10), dynamic=True)
    x = torch.randn(3, 5)
    sizes = {"s0": 3, "s1": 5}
    (got,) = reference(sub)(x, *(sizes[s.name] for s in sub.symbols))
    torch.testing.assert_close(got, x / 5 + 3)
