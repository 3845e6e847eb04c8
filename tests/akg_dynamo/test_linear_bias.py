"""A linear layer's bias apart: where kernels read the result, and together again where no kernel adds it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

import akg_dynamo
from akg_dynamo import capture, linear_bias
from akg_dynamo.explanation import records

aten = torch.ops.aten
X, W, B = torch.randn(4, 32, 64), torch.randn(96, 64), torch.randn(96)


def traced(f: Callable[..., Any], *inputs: Tensor, mode: str = "fake") -> fx.GraphModule:
    gm = make_fx(f, tracing_mode=mode)(*inputs)
    capture.recompose(gm)
    return gm


def gelu(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return F.gelu(F.linear(x, w, b))


def viewed(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    y = F.linear(x, w, b)
    return y.view(4, 32, 8, 12).transpose(1, 2).exp() + y.view(4, 32, 8, 12).transpose(1, 2)


def only(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return F.linear(x, w, b)


def also_returned(x: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    y = F.linear(x, w, b)
    return F.gelu(y), y


def into_a_product(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    y = F.linear(x, w, b)
    return y.relu() @ y.transpose(1, 2)


def linears(gm: fx.GraphModule) -> list[fx.Node]:
    return [n for n in gm.graph.nodes if n.target is aten.linear.default]


@pytest.mark.parametrize("f", [gelu, viewed])
@pytest.mark.parametrize("mode", ["fake", "symbolic"])
def test_the_sum_is_of_its_own(f: Callable[..., Tensor], mode: str) -> None:
    gm = traced(f, X, W, B, mode=mode)
    assert linear_bias.take_apart(gm.graph, device="cpu") == 1
    gm.graph.lint()
    gm.recompile()
    (linear,) = linears(gm)
    assert len(linear.args) == 2
    torch.testing.assert_close(gm(X, W, B), f(X, W, B))


@pytest.mark.parametrize("f", [only, also_returned, into_a_product])
def test_not_for_what_something_else_reads(f: Callable[..., Any]) -> None:
    gm = traced(f, X, W, B)
    before = str(gm.graph)
    assert linear_bias.take_apart(gm.graph, device="cpu") == 0
    assert str(gm.graph) == before


def test_not_in_other_types_nor_on_other_devices() -> None:
    narrow = [x.bfloat16() for x in (X, W, B)]
    assert linear_bias.take_apart(traced(gelu, *narrow).graph, device="cpu") == 0
    assert linear_bias.take_apart(traced(gelu, X, W, B).graph) == 0


def test_together_again() -> None:
    gm = traced(gelu, X, W, B)
    (before,) = [n.args for n in linears(gm)]
    linear_bias.take_apart(gm.graph, device="cpu")
    linear_bias.put_together(gm.graph, ())
    gm.graph.lint()
    gm.recompile()
    (linear,) = linears(gm)
    assert linear.args == before
    assert all(n.target is not aten.add.Tensor for n in gm.graph.nodes)
    torch.testing.assert_close(gm(X, W, B), gelu(X, W, B), rtol=0, atol=0)


@pytest.fixture
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    records.clear()
    monkeypatch.setattr(capture, "take_apart", functools.partial(linear_bias.take_apart, device="cpu"))


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 96)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.linear(x))


@pytest.mark.usefixtures("on_the_cpu")
@pytest.mark.parametrize("dynamic", [False, True])
def test_the_kernel_adds_the_bias(dynamic: bool) -> None:
    layer = Layer()
    with torch.no_grad():
        compiled = torch.compile(layer, backend="akg", dynamic=dynamic, options={"gate": "correct"})
        torch.testing.assert_close(compiled(X), layer(X))
    (report,) = akg_dynamo.explain()
    (kernel,) = report.kernels
    assert kernel.nodes == ("aten.add.Tensor", "aten.gelu.default")
    assert report.rewrites == ("linear layers whose bias is added by the kernel that reads the product: 1",)
    assert [left.target for left in report.left if "linear" in left.target] == ["aten.linear.default"]


@pytest.mark.usefixtures("on_the_cpu")
def test_no_kernel_no_sum() -> None:
    """What runs is what eager runs, and explain() speaks of the layer."""
    layer = Layer()
    other = nn.Sequential(layer, nn.Linear(96, 8))
    with torch.no_grad():
        compiled = torch.compile(other, backend="akg", options={"generation": "cached"})
        torch.testing.assert_close(compiled(X), other(X), rtol=0, atol=0)
    (report,) = akg_dynamo.explain()
    assert not report.kernels
    assert not report.rewrites
    assert [left.target for left in report.left if "add" in left.target] == []
    reasons = {str(left.reason) for left in report.left if left.target == "aten.linear.default"}
    assert all(reason.startswith("matrix product") for reason in reasons), reasons
