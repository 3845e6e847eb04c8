"""Convolutions with their channels last: which graphs, that values and layouts of results stay, and who decides."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

import akg_dynamo
from akg_dynamo import capture, channels_last
from akg_dynamo.cache.store import Store
from akg_dynamo.channels_last import Work
from akg_dynamo.core.types import Timing

aten = torch.ops.aten
WON = Timing(1.31, 1.28, 1.35, 131.0, 100.0)
LOST = Timing(0.98, 0.97, 0.99, 98.0, 100.0)


def says(timing: Timing | None) -> channels_last.Clock:
    return lambda _key, _before, _after: timing


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


def of_one_pixel(x: Tensor, w: Tensor, v: Tensor) -> Tensor:
    return F.conv2d(F.conv2d(x, w[:, :, :1, :1].contiguous()), v)


@pytest.mark.parametrize("f", [two, rows, several, of_one_pixel])
def test_values_and_layouts(f: Callable[..., Any]) -> None:
    gm = traced(f, X, W, V)
    want = results(gm, X, W, V)
    assert channels_last.channels_last(gm, says(WON), device="cpu")
    for node in convolutions(gm):
        assert node.meta["val"].is_contiguous(memory_format=torch.channels_last)
    got = results(gm, X, W, V)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)
        assert a.stride() == b.stride()


def test_nothing_is_turned_in_between() -> None:
    gm = traced(two, X, W, V)
    channels_last.channels_last(gm, says(WON), device="cpu")
    copies = [n for n in gm.graph.nodes if n.target is aten.clone.default]
    assert len(copies) == 3, "two weights and the result"
    assert sum("stays_with_torch" in n.meta for n in copies) == 2


def test_what_the_graph_says_is_what_is_computed() -> None:
    """The kernels read by the strides that the graph gives."""
    gm = traced(two, X, W, V)
    channels_last.channels_last(gm, says(WON), device="cpu")
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


def test_a_weight_is_laid_out_once_and_the_programs_own_copies_are_its_own() -> None:
    def f(x: Tensor, w: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        y = F.conv2d(F.conv2d(x, v), v)
        return y, v.clone(memory_format=torch.channels_last)  # after what reads the weight

    x, w, v = torch.randn(2, 16, 12, 12), torch.randn(1), torch.randn(16, 16, 3, 3)
    gm = traced(f, x, w, v)
    want = results(gm, x, w, v)
    assert channels_last.channels_last(gm, says(WON), device="cpu")
    first, second = (n.args[1] for n in convolutions(gm))
    assert first is second
    torch.testing.assert_close(results(gm, x, w, v), want, rtol=1e-4, atol=1e-3)


def test_three_dimensions() -> None:
    x, w = torch.randn(2, 16, 5, 6, 7), torch.randn(32, 16, 3, 3, 3)
    gm = traced(F.conv3d, x, w)
    want = results(gm, x, w)
    assert channels_last.channels_last(gm, says(WON), device="cpu")
    assert convolutions(gm)[0].meta["val"].is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(results(gm, x, w), want, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("timing", [LOST, None], ids=["slower", "cannot be measured"])
def test_what_does_not_win_is_left(timing: Timing | None) -> None:
    gm = traced(two, X, W, V)
    before = str(gm.graph)
    assert channels_last.channels_last(gm, says(timing), device="cpu") == ""
    assert str(gm.graph) == before


@pytest.mark.parametrize(
    ("f", "inputs"),
    [(F.conv1d, (torch.randn(2, 128, 9), torch.randn(128, 128, 3))), (lambda x, w: x + w, (X, X))],
    ids=["one dim", "no convolution"],
)
def test_what_is_not_even_tried(f: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> None:
    def never(*_: object) -> Timing:
        raise AssertionError("timed")

    assert channels_last.channels_last(traced(f, *inputs), never, device="cpu") == ""


def test_not_with_symbols_nor_elsewhere() -> None:
    symbolic = make_fx(two, tracing_mode="symbolic")(X, W, V)
    assert channels_last.channels_last(symbolic, says(WON), device="cpu") == ""
    assert channels_last.channels_last(traced(two, X, W, V), says(WON), device="cuda") == ""


def test_channels_that_are_last_already_are_not_timed() -> None:
    x, w = X.to(memory_format=torch.channels_last), W.to(memory_format=torch.channels_last)
    assert channels_last.rewrite(traced(lambda x, w: F.relu(F.conv2d(x, w)), x, w), "cpu") is None


def test_both_forms_are_timed_with_their_copies() -> None:
    seen: list[tuple[Work, Work]] = []

    def clock(_key: str, before: Work, after: Work) -> Timing:
        seen.append((before, after))
        return LOST

    channels_last.channels_last(traced(two, X, W, V), clock, device="cpu")
    ((before, after),) = seen
    assert [n.target for n in before] == [aten.convolution.default] * 2
    clones = sum(n.target is aten.clone.default for n in after)
    assert (len(after), clones) == (5, 3)
    operands = channels_last._Operands(1 << 30)
    for node in (*before, *after):  # and can be: on real tensors of those shapes and strides
        made = operands.of(node)()
        assert isinstance(made, Tensor)
        assert made.stride() == node.meta["val"].stride()


def test_operands_beyond_the_limit_are_not_made() -> None:
    node = convolutions(traced(two, X, W, V))[0]
    with pytest.raises(MemoryError):
        channels_last._Operands(1000).of(node)


def test_an_answer_is_remembered_by_shapes_and_device(tmp_path: Path) -> None:
    store, asked = Store(tmp_path), list[str]()

    def clock(key: str, _before: Work, _after: Work) -> Timing:
        asked.append(key)
        return WON

    def ask(f: Callable[..., Any], device: str, measure: channels_last.Clock | None = clock) -> str:
        known = channels_last.remembered(measure, store, device)
        return channels_last.channels_last(traced(f, X, W, V), known, device="cpu")

    assert ask(two, "a", None) == "", "only looked up, and not there"
    assert ask(two, "a")
    assert ask(two, "a")
    assert len(asked) == 1
    assert ask(two, "a", None)
    assert ask(of_one_pixel, "a")
    assert ask(two, "b")
    assert len(set(asked)) == 2
    assert len(asked) == 3
    store.close()


@pytest.fixture
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The rewriting where there is no GPU, as if it had won."""

    def for_cpu(gm: fx.GraphModule, clock: channels_last.Clock) -> str:
        return channels_last.channels_last(gm, clock, device="cpu")

    monkeypatch.setattr(capture, "channels_last", for_cpu)
    monkeypatch.setattr(capture, "on_device", says(WON))
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 48, 3), nn.GELU(), nn.Flatten()
    )


@pytest.mark.usefixtures("on_the_cpu")
def test_inference_through_the_backend(tmp_path: Path) -> None:
    model = network().eval()
    with torch.no_grad():
        got = torch.compile(model, backend="akg", options={"gate": "correct", "cache_dir": str(tmp_path)})(X)
        torch.testing.assert_close(got, model(X), rtol=1e-4, atol=1e-4)
        assert got.stride() == model(X).stride()
    (report,) = akg_dynamo.explain()
    assert "2 convolutions have their channels last" in " ".join(report.rewrites)
    assert "channels_last" in report.source


@pytest.mark.usefixtures("on_the_cpu")
def test_training_through_the_backend(tmp_path: Path) -> None:
    """What the forward half saves is what the backward half was traced with; gradients are laid out as eager's."""
    eager, model = network(), network()
    x, y = X.clone().requires_grad_(), X.clone().requires_grad_()
    compiled = torch.compile(model, backend="akg", options={"gate": "correct", "cache_dir": str(tmp_path)})
    wanted, got = eager(x), compiled(y)
    upstream = torch.randn_like(wanted)
    wanted.backward(upstream)
    got.backward(upstream)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    pairs = [(x, y), *zip(eager.parameters(), model.parameters(), strict=True)]
    for a, b in pairs:
        assert a.grad is not None
        assert b.grad is not None
        torch.testing.assert_close(b.grad, a.grad, rtol=1e-3, atol=1e-3)
        assert b.grad.stride() == a.grad.stride()
    forward, backward = akg_dynamo.explain()
    assert forward.rewrites
    assert "convolution_backward" in backward.source
