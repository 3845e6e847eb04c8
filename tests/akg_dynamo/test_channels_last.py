"""Convolutions with their channels last: which graphs, that values and layouts of results stay, what is not turned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

from akg_dynamo import capture
from akg_dynamo.channels_last import channels_last

aten = torch.ops.aten


def traced(f: Callable[..., Any], *inputs: Tensor) -> fx.GraphModule:
    return make_fx(f, tracing_mode="fake")(*inputs)


def convolutions(gm: fx.GraphModule) -> list[fx.Node]:
    return [n for n in gm.graph.nodes if n.target is aten.convolution.default]


def results(gm: fx.GraphModule, *inputs: Tensor) -> list[Tensor]:
    gm.graph.lint()
    gm.recompile()
    found = gm(*inputs)
    return list(found) if isinstance(found, tuple | list) else [found]


X = torch.randn(2, 16, 12, 12)
W = torch.randn(128, 16, 3, 3)
V = torch.randn(96, 128, 3, 3)


def two(x: Tensor, w: Tensor, v: Tensor) -> Tensor:
    return F.relu(F.conv2d(F.relu(F.conv2d(x, w)) * 2, v))


def rows(x: Tensor, w: Tensor, v: Tensor) -> Tensor:
    return F.conv2d(F.conv2d(x, w), v).flatten(1)


def several(x: Tensor, w: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    y = F.conv2d(x, w)
    return y, y.mean((2, 3)), F.max_pool2d(F.conv2d(y, v), 2)


@pytest.mark.parametrize("f", [two, rows, several])
def test_values_and_layouts(f: Callable[..., Any]) -> None:
    gm = traced(f, X, W, V)
    want = results(gm, X, W, V)
    assert channels_last(gm, device="cpu")
    for node in convolutions(gm):
        assert node.args[1].meta["val"].is_contiguous(memory_format=torch.channels_last)  # type: ignore[union-attr]
        assert node.meta["val"].is_contiguous(memory_format=torch.channels_last)
    got = results(gm, X, W, V)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)
        assert a.stride() == b.stride()


def test_nothing_is_turned_in_between() -> None:
    gm = traced(two, X, W, V)
    channels_last(gm, device="cpu")
    copies = [n for n in gm.graph.nodes if n.target is aten.clone.default]
    assert len(copies) == 3, "two weights and the result"
    assert sum("stays_with_torch" in n.meta for n in copies) == 2


def test_what_the_graph_says_is_what_is_computed() -> None:
    """The kernels read by the strides that the graph gives."""
    gm = traced(two, X, W, V)
    channels_last(gm, device="cpu")
    seen: dict[str, tuple[int, ...]] = {}

    class Look(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if isinstance(value, Tensor):
                seen[n.name] = value.stride()
            return value

    Look(gm).run(X, W, V)
    said = {n.name: n.meta["val"].stride() for n in gm.graph.nodes if isinstance(n.meta.get("val"), Tensor)}
    assert {name: seen[name] for name in said} == said


@pytest.mark.parametrize(
    ("f", "inputs"),
    [
        (lambda x, w: F.conv2d(x, w, groups=2), (torch.randn(2, 256, 9, 9), torch.randn(128, 128, 3, 3))),
        (F.conv2d, (torch.randn(2, 8, 9, 9), torch.randn(16, 8, 3, 3))),
        (F.conv2d, (torch.randn(2, 512, 9, 9), torch.randn(128, 512, 3, 3))),
        (F.conv1d, (torch.randn(2, 128, 9), torch.randn(128, 128, 3))),
        (F.conv_transpose2d, (torch.randn(2, 128, 9, 9), torch.randn(128, 128, 3, 3))),
        (lambda x, w: x + w, (X, X)),
    ],
    ids=["grouped", "few channels", "narrowing", "one dim", "transposed", "none"],
)
def test_what_is_left_as_it_is(f: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> None:
    gm = traced(f, *inputs)
    before = str(gm.graph)
    assert not channels_last(gm, device="cpu")
    assert str(gm.graph) == before


def test_not_with_symbols_nor_elsewhere() -> None:
    assert not channels_last(make_fx(two, tracing_mode="symbolic")(X, W, V), device="cpu")
    assert not channels_last(traced(two, X, W, V), device="cuda")


def test_a_depthwise_convolution_is_not_grouped() -> None:
    def f(x: Tensor, w: Tensor, v: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(x, w), v, groups=128)

    assert channels_last(traced(f, X, W, torch.randn(128, 1, 3, 3)), device="cpu")


def test_a_model_through_the_backend(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(capture, "channels_last", lambda gm: channels_last(gm, device="cpu"))
    model = nn.Sequential(
        nn.Conv2d(16, 128, 3, padding=1), nn.BatchNorm2d(128), nn.ReLU(), nn.Conv2d(128, 96, 3), nn.GELU(), nn.Flatten()
    ).eval()
    torch._dynamo.reset()
    options = {"gate": "correct", "channels_last": True, "cache_dir": str(tmp_path)}
    with torch.no_grad():
        got = torch.compile(model, backend="akg", options=options)(X)
        torch.testing.assert_close(got, model(X), rtol=1e-4, atol=1e-4)
