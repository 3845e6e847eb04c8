"""The mapping to GPUs: every family of operators interpreted, at sizes and limits that take every kind of loop."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from families import BACKWARD, FORWARD, gradients, ints, rand

from akg_dynamo.core.types import Design

Designed = Callable[..., Design]


@pytest.mark.usefixtures("limits")
@pytest.mark.parametrize("name", FORWARD)
def test_forward(name: str, designed_for_cuda: Designed) -> None:
    f, args = FORWARD[name]
    designed_for_cuda(f, *args)


@pytest.mark.usefixtures("limits")
@pytest.mark.parametrize("name", BACKWARD)
def test_backward(name: str, designed_for_cuda: Designed) -> None:
    f, args = BACKWARD[name]
    designed_for_cuda(gradients(f), *args)


@pytest.mark.usefixtures("limits")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["softmax", "layer_norm", "column sum", "argmax of everything"])
def test_other_floats(name: str, dtype: torch.dtype, designed_for_cuda: Designed) -> None:
    f, args = FORWARD[name]
    designed_for_cuda(f, *(a.to(dtype) for a in args))


@pytest.mark.usefixtures("limits")
@pytest.mark.parametrize("name", ["softmax", "column sum", "full sum", "cross entropy", "var_mean"])
def test_symbolic_sizes(name: str, designed_for_cuda: Designed) -> None:
    f, args = FORWARD[name]
    found = designed_for_cuda(f, *args, mode="symbolic")
    assert any(isinstance(value, str) for _, value in found.symbols)


@pytest.mark.usefixtures("limits")
def test_nan_and_inf(designed_for_cuda: Designed) -> None:
    """Where a maximum is infinite or NaN, chunks and lanes are brought together as one pass would have left them."""
    x = rand(7, 150)
    x[0, 100] = torch.nan
    x[1, 3] = torch.inf
    x[2, 70] = -torch.inf
    x[3] = -torch.inf
    x[4, 5], x[4, 149] = torch.nan, torch.inf
    designed_for_cuda(lambda x: torch.softmax(x, 1), x)
    designed_for_cuda(lambda x: torch.log_softmax(x, 1), x)
    designed_for_cuda(lambda x: (torch.logsumexp(x, 1), x.amax(1), x.amin(1)), x)
    designed_for_cuda(lambda x: (x.argmax(1), x.argmin(1), x.argmax()), x)
    designed_for_cuda(lambda x: (torch.max(x, 1), torch.min(x, 0), x.argmax(0)), x)


@pytest.mark.usefixtures("limits")
def test_ties_give_the_first_index(designed_for_cuda: Designed) -> None:
    x = ints(3, 7, 150).float()
    designed_for_cuda(lambda x: (x.argmax(1), x.argmin(0), x.argmax()), x)
    designed_for_cuda(lambda x: x.to(torch.int32).argmin(1), torch.full((5, 70), 7.0))


@pytest.mark.usefixtures("limits")
def test_a_large_mean_costs_no_accuracy(designed_for_cuda: Designed) -> None:
    x = rand(4, 6, 130) + 1000
    designed_for_cuda(lambda x: (x.double().var((0, 2)) - x.var((0, 2)).double()).abs() < 1e-4, x)
    designed_for_cuda(lambda x: F.layer_norm(x - 999, (130,)), x)
