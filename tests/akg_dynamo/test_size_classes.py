"""Symbolic sizes: beyond the class that its kernels were judged for, a graph gets others, and is right everywhere."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import akg_dynamo
from akg_dynamo import capture, linear_bias, size_classes
from akg_dynamo.background import background
from akg_dynamo.core.types import (
    Kernel,
    OpNode,
    Outcome,
    Ref,
    SplitReason,
    SplitReasonType,
    Subgraph,
    Symbol,
    TensorSpec,
)
from akg_dynamo.executor import write_forward
from akg_dynamo.fusion.extract import Cut
from akg_dynamo.fusion.symbols import SymbolSource
from akg_dynamo.options import Options
from akg_dynamo.size_classes import SizeClasses, alike, limits, seen_with

from .conftest import ReferenceSolver


def f(x: Tensor) -> Tensor:
    return torch.softmax(x * 2, -1) + 1


def compiled(function: Any, **options: object) -> Any:
    return torch.compile(function, backend="akg", dynamic=True, options={"gate": "correct", **options})


def hints(sub: Subgraph) -> list[int]:
    return [s.hint for s in sub.symbols]


def test_a_call_beyond_has_kernels_judged_for_its_own_sizes(solver: ReferenceSolver) -> None:
    g = compiled(f)
    x = torch.randn(3, 8)
    torch.testing.assert_close(g(x), f(x))
    assert [hints(sub) for sub in solver.solved] == [[3, 8]]
    with torch.compiler.set_stance("fail_on_recompile"):
        for shape in ((4096, 2), (2, 4096), (1000, 1000)):
            x = torch.randn(shape)
            torch.testing.assert_close(g(x), f(x))
        assert len(solver.solved) == 1
        for shape in ((5, 5000), (9, 40_000), (7, 11)):
            x = torch.randn(shape)
            torch.testing.assert_close(g(x), f(x))
        assert [hints(sub) for sub in solver.solved] == [[3, 8], [5, 5000]]
        x = torch.randn(5000, 5)
        torch.testing.assert_close(g(x), f(x))
    assert [hints(sub) for sub in solver.solved] == [[3, 8], [5, 5000], [5000, 5]]
    assert solver.calls == 8
    reports = akg_dynamo.explain()
    assert [len(r.kernels) for r in reports] == [1, 1, 1]
    assert reports[0].sizes.count("<= 4096") == 2
    assert "<= 65536" in reports[1].sizes
    assert "if args[" in reports[0].source


def test_a_training_step_beyond(solver: ReferenceSolver) -> None:
    def loss(x: Tensor, w: Tensor) -> Tensor:
        return F.gelu(F.layer_norm(x, (8,)) @ w).softmax(-1).pow(2).sum()

    g = compiled(loss)
    for rows in (3, 5000, 7, 5001):
        tensors = [torch.randn(rows, 8, requires_grad=True), torch.randn(8, 6, requires_grad=True)]
        want = torch.autograd.grad(loss(*tensors), tensors)
        with torch.compiler.set_stance("fail_on_recompile" if rows != 3 else "default"):
            got = torch.autograd.grad(g(*tensors), tensors)
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a, b)
    assert [r.kind for r in akg_dynamo.explain()] == ["forward", "backward"] * 2
    assert all(r.kernels for r in akg_dynamo.explain())


def test_in_the_background_torch_runs_meanwhile(solver: ReferenceSolver) -> None:
    g = compiled(f, generation="background")
    x = torch.randn(3, 8)
    g(x)
    assert background.wait(300)
    large = torch.randn(3, 5000)
    before = solver.calls
    torch.testing.assert_close(g(large), f(large))
    assert background.wait(300)
    torch.testing.assert_close(g(large), f(large))
    assert solver.calls == before + 1
    assert [r.state for r in akg_dynamo.explain()] == ["ready"] * 2
    assert len(solver.solved) == 2


def test_what_did_not_pay_is_asked_again(solver: ReferenceSolver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that loses at one size may win at another; and the other way round."""

    def solve(subgraphs: Sequence[Subgraph], options: Options) -> dict[str, Kernel | SplitReason]:
        pays = solver.solve(subgraphs, options)
        small = {sub.digest for sub in subgraphs if max(hints(sub)) < 1000}
        norms = {sub.digest for sub in subgraphs if any("softmax" in node.target for node in sub.nodes)}
        lost = SplitReason(SplitReasonType.NO_GAIN, "0.9 x eager")
        return {digest: lost if (digest in norms) == (digest in small) else kernel for digest, kernel in pays.items()}

    def g(x: Tensor, w: Tensor) -> Tensor:
        return torch.softmax(((x * 2).exp() + 1) @ w, -1)

    monkeypatch.setattr(capture, "solve", solve)
    ours, w = compiled(g), torch.randn(8, 16)
    for rows in (3, 5000, 4):
        x = torch.randn(rows, 8)
        torch.testing.assert_close(ours(x, w), g(x, w))
    first, second = akg_dynamo.explain()
    assert any("softmax" in left.target for left in first.left)
    assert [kernel.nodes for kernel in second.kernels] == [("aten._softmax.default",)]
    assert any("exp" in left.target for left in second.left)


def test_with_kernels_of_our_own() -> None:
    torch._dynamo.reset()
    g = compiled(f)
    for shape in ((3, 8), (5, 9), (5, 5000), (4097, 4), (4096, 6)):
        x = torch.randn(shape)
        torch.testing.assert_close(g(x), f(x))
    reports = akg_dynamo.explain()
    assert len(reports) == 3
    for report in reports:
        (kernel,) = report.kernels
        assert "aten._softmax.default" in kernel.nodes
        assert kernel.output == "s0xs1"
        assert kernel.verdict is not None
        assert kernel.verdict.outcome is Outcome.RIGHT
        assert not report.fallbacks


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(64, 96), nn.Linear(96, 160)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.b(torch.softmax(self.a(x), -1)))


@pytest.mark.parametrize("wins", [("softmax",), ("gelu",), ("softmax", "gelu")])
def test_layers_that_were_put_together_again_stay_so(
    solver: ReferenceSolver, monkeypatch: pytest.MonkeyPatch, wins: tuple[str, ...]
) -> None:
    """Their bias is added by a kernel of the first class or by none; the others may still win or lose."""
    monkeypatch.setattr(capture, "take_apart", functools.partial(linear_bias.take_apart, device="cpu"))
    lost = SplitReason(SplitReasonType.NO_GAIN, "0.9 x eager")

    def solve(subgraphs: Sequence[Subgraph], options: Options) -> dict[str, Kernel | SplitReason]:
        found = solver.solve(subgraphs, options)
        for sub in subgraphs:
            wanted = any(name in node.target for node in sub.nodes for name in wins)
            if wanted != (max(hints(sub)) < 1000):
                found[sub.digest] = lost
        return found

    monkeypatch.setattr(capture, "solve", solve)
    model = Layers()
    with torch.no_grad():
        ours = compiled(model)
        for rows in (300, 5000, 70_000, 400):
            x = torch.randn(rows, 64)
            torch.testing.assert_close(ours(x), model(x))
    first, *others = akg_dynamo.explain()
    assert {node for kernel in first.kernels for node in kernel.nodes if "add" not in node} == {
        f"aten.{name}.default".replace("softmax", "_softmax") for name in wins
    }
    assert first.rewrites == (f"linear layers whose bias is added by the kernel that reads the product: {len(wins)}",)
    assert len(others) == 2
    for report in others:
        assert not report.kernels
        assert not report.rewrites
        why = {left.target: left.why for left in report.left}
        assert why.pop("aten.linear.default").startswith("matrix product")
        assert why == dict.fromkeys(("aten._softmax.default", "aten.gelu.default"), str(lost))


def test_kernels_that_cannot_be_made_cost_no_answer(
    solver: ReferenceSolver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    g = compiled(f)
    g(torch.randn(3, 8))
    monkeypatch.setattr(solver, "solved", None)  # what appends to it raises
    large = torch.randn(3, 5000)
    with caplog.at_level(logging.ERROR):
        for _ in range(2):
            torch.testing.assert_close(g(large), f(large))
    assert [record.message for record in caplog.records if "no kernels for" in record.message] != []
    assert len([record for record in caplog.records if "no kernels for" in record.message]) == 1
    x = torch.randn(4, 8)
    torch.testing.assert_close(g(x), f(x))
    assert solver.calls == 2


def test_sizes_beyond_all_classes_stay_with_torch(solver: ReferenceSolver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(size_classes, "_MOST", 1)
    g = compiled(f)
    for shape in ((3, 8), (3, 5000), (5000, 3), (5001, 3), (3, 5001)):
        x = torch.randn(shape)
        torch.testing.assert_close(g(x), f(x))
    assert [hints(sub) for sub in solver.solved] == [[3, 8], [3, 5000]]
    assert solver.calls == 3


def test_nothing_is_loaded_while_a_graph_is_captured(solver: ReferenceSolver, monkeypatch: pytest.MonkeyPatch) -> None:
    g = compiled(f)
    g(torch.randn(3, 8))
    large = torch.randn(3, 5000)
    with monkeypatch.context() as patch:
        patch.setattr(size_classes, "_is_capturing", lambda: True)
        torch.testing.assert_close(g(large), f(large))
    assert len(solver.solved) == 1
    torch.testing.assert_close(g(large), f(large))
    assert len(solver.solved) == 2


def test_static_graphs_ask_nothing(solver: ReferenceSolver) -> None:
    g = torch.compile(f, backend="akg", dynamic=False, options={"gate": "correct"})
    x = torch.randn(3, 8)
    torch.testing.assert_close(g(x), f(x))
    (report,) = akg_dynamo.explain()
    assert report.sizes == ""
    assert "beyond" not in report.source


def test_sizes_that_the_user_bounds_are_one_class(solver: ReferenceSolver) -> None:
    x = torch.randn(3, 8)
    torch._dynamo.mark_dynamic(x, 0, min=2, max=1000)
    g = torch.compile(f, backend="akg", options={"gate": "correct"})
    torch.testing.assert_close(g(x), f(x))
    (report,) = akg_dynamo.explain()
    assert "beyond" not in report.source


# -- the pieces -------------------------------------------------------------------------------------------------------


def cut(*hinted: int, sources: Sequence[SymbolSource] = ()) -> Cut:
    """Elementwise, on a tensor whose sizes are all symbols."""
    names = [f"s{i}" for i in range(len(hinted))]
    spec = TensorSpec("float32", tuple(names), tuple("*".join(names[i + 1 :]) or 1 for i in range(len(names))))
    symbols = tuple(Symbol(f"s{i}", 2, None, hint) for i, hint in enumerate(hinted))
    sub = Subgraph((spec,), symbols, (OpNode("aten.relu.default", (Ref(0),), (), spec),), (1,))
    return Cut(0, sub, (), tuple(sources), (), ())


def placeholders(*names: str) -> tuple[fx.Graph, list[fx.Node]]:
    graph = fx.Graph()
    nodes = [graph.placeholder(name) for name in names]
    graph.output(())
    return graph, nodes


def test_alike_cuts_are_judged_once_at_the_larger_sizes() -> None:
    _, (a, b, c) = placeholders("a", "b", "c")
    rows, columns, others = SymbolSource(a, None), SymbolSource(b, None), SymbolSource(c, None)
    cuts = alike([cut(3, 9000, sources=(rows, columns)), cut(70, 5, sources=(columns, others))])
    assert [hints(c.subgraph) for c in cuts] == [[70, 9000], [70, 9000]]
    assert limits(cuts) == {rows: 4096, columns: 4096, others: 8 * 16384}
    again = seen_with(cuts, {rows: 1, columns: 2, others: 10_000})
    assert [hints(c.subgraph) for c in again] == [[2, 10_000], [2, 10_000]]


def test_sizes_are_read_from_what_the_graph_is_given() -> None:
    graph, (x, n) = placeholders("x", "n")
    gm = fx.GraphModule(nn.Module(), graph)
    sources = (SymbolSource(x, 0), SymbolSource(x, 1, scale=2, offset=1), SymbolSource(n, None))
    made: list[list[int]] = []

    def make(cuts: Sequence[Cut]) -> Any:
        made.extend(hints(c.subgraph) for c in cuts)
        return lambda args: ("made", len(args))

    classes = SizeClasses(graph, [cut(2, 3, 4, sources=sources)], make, lambda: pytest.fail("not asked for"))
    forward: Any = write_forward(
        gm, [], on_raise=lambda *_: pytest.fail("no kernel"), limits=dict.fromkeys(sources, 10), beyond=classes.beyond
    ).forward
    assert forward([torch.empty(10, 21), 10]) == ()
    assert forward([torch.empty(10, 22), 10]) == ()  # rounded down, as where the symbol is computed
    assert made == []
    for args in ([torch.empty(11, 21), 10], [torch.empty(10, 23), 10], [torch.empty(10, 21), 11]):
        assert forward(args) == ("made", 2)
    assert made == [[11, 10, 10]]  # whose class has room for the others
