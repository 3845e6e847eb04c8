"""Equal values computed once: which nodes go, which stay, and that a mask of every layer is one value."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from akg_dynamo.dedupe import dedupe

aten = torch.ops.aten


def graph(f: Callable[..., object], *inputs: Tensor) -> fx.GraphModule:
    return make_fx(f, tracing_mode="fake")(*inputs)


def left(f: Callable[..., object], *inputs: Tensor) -> int:
    """How many operators are left; the values must be the same."""
    gm = graph(f, *inputs)
    want = gm(*inputs)
    dedupe(gm)
    gm.graph.lint()
    gm.recompile()
    torch.testing.assert_close(gm(*inputs), want)
    return sum(n.op == "call_function" for n in gm.graph.nodes)


X = torch.randn(4, 4)


def mask(x: Tensor) -> Tensor:
    allowed = torch.arange(4).unsqueeze(0) <= torch.arange(4).unsqueeze(1)
    return x + torch.where(allowed, 0.0, -torch.inf)


def test_what_every_layer_repeats() -> None:
    once = left(mask, X)
    assert left(lambda x: mask(mask(mask(x))), X) == once + 2


@pytest.mark.parametrize(
    ("f", "count"),
    [
        (lambda x: (x + 1) * (x + 1), 2),
        (lambda x: (x + 1) * (x + 2), 3),
        (lambda x: (x + 1) * (x + 1.5), 3),
        (lambda x: torch.atan2(x * 0.0, torch.ones(())) + torch.atan2(x * -0.0, torch.ones(())), 6),
        (lambda x: x.sum(0) + x.sum(1), 3),
        (lambda x: x.view(2, 8).sum() + x.view(2, 8).sum(), 3),
        (lambda x: x.to(torch.float64).sum() + x.to(torch.float64).sum(), 3),
        (lambda x: torch.var_mean(x)[0] + torch.var_mean(x)[0], 4),
    ],
)
def test_equal_is_equal(f: Callable[[Tensor], Tensor], count: int) -> None:
    assert left(f, X) == count


def test_random_draws_are_all_drawn() -> None:
    gm = graph(lambda x: torch.rand_like(x) - torch.rand_like(x), X)
    dedupe(gm)
    assert sum(n.target is aten.rand_like.default for n in gm.graph.nodes) == 2


def test_two_results_are_not_one_tensor() -> None:
    def f(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = x + 1
        return y, x + 1, (x + 1).view(-1)

    gm = graph(f, X)
    dedupe(gm)
    gm.recompile()
    results = gm(X)
    assert len({t.untyped_storage().data_ptr() for t in results}) == 3


def test_what_is_read_after_a_write() -> None:
    def f(x: Tensor, y: Tensor) -> Tensor:
        before = x * 2
        x.copy_(y)
        return before + x * 2

    gm = graph(f, X.clone(), X)
    dedupe(gm)
    gm.recompile()
    assert sum(n.target is aten.mul.Tensor for n in gm.graph.nodes) == 2
    torch.testing.assert_close(gm(X.clone(), X + 1), X * 2 + (X + 1) * 2)
