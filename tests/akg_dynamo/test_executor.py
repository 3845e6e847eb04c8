"""The generated forward: its source, order, deletions, tracebacks, and what happens when a kernel raises."""

from __future__ import annotations

import logging
import traceback
from typing import Any

import pytest
import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx

import akg_dynamo
from akg_dynamo.executor import restride, write_forward
from akg_dynamo.schedule import Region

from .conftest import ReferenceSolver

ALL = {"gate": "correct"}


def refuse(region: Region, error: Exception, arguments: tuple[Any, ...]) -> Any:
    raise AssertionError("no kernel should raise here")


def region_of(gm: fx.GraphModule, names: list[str], inputs: list[str], outputs: list[str], run: Any) -> Region:
    by_name = {n.name: n for n in gm.graph.nodes}
    return Region(
        "kernel",
        frozenset(by_name[n] for n in names),
        tuple(by_name[n] for n in inputs),
        (),
        tuple(by_name[n] for n in outputs),
        run,
    )


def test_the_source_is_what_the_docstring_promises() -> None:
    gm = make_fx(lambda x, w: (torch.mm(x, w) * 2).sigmoid())(torch.randn(2, 3), torch.randn(3, 4))
    kernel = region_of(gm, ["mul", "sigmoid"], ["mm"], ["sigmoid"], lambda mm: ((mm * 2).sigmoid(),))
    made = write_forward(gm, [kernel], on_raise=refuse, title="inference 7")
    assert made.source == (
        "# inference 7: written by AKG from the captured graph.\n"
        "def forward(args):\n"
        "    x_1, w_1 = args\n"
        "    args.clear()\n"
        "    mm = torch.mm(x_1, w_1)\n"
        "    del x_1, w_1\n"
        "    try:\n"
        "        (sigmoid,) = kernel(mm)\n"
        "    except Exception as error:\n"
        "        (sigmoid,) = kernel_raised(error, mm)\n"
        "    del mm\n"
        "    return sigmoid\n"
    )


def test_a_traceback_shows_the_generated_line() -> None:
    gm = make_fx(lambda x, w: torch.mm(x, w).relu())(torch.randn(2, 3), torch.randn(3, 4))
    made = write_forward(gm, [], on_raise=refuse)
    with pytest.raises(RuntimeError) as raised:
        made.forward([torch.randn(2, 3), torch.randn(5, 4)])
    assert "mm = torch.mm(x_1, w_1)" in "".join(traceback.format_tb(raised.value.__traceback__))


def test_the_arguments_are_taken_over() -> None:
    gm = make_fx(lambda x: x.relu() + 1)(torch.randn(2))
    forward: Any = write_forward(gm, [], on_raise=refuse).forward
    args = [torch.randn(2)]
    forward(args)
    assert args == []
    assert forward._boxed_call is True


def test_a_region_that_would_make_a_cycle_is_given_up() -> None:
    gm = make_fx(lambda x: torch.mm(x.sin(), x).cos() + x.sin())(torch.randn(3, 3))
    names = [n.name for n in gm.graph.nodes if n.op == "call_function"]
    assert names == ["sin", "mm", "cos", "sin_1", "add"]
    # `sin` feeds `mm`, which feeds `cos`: one kernel cannot hold both ends.
    around = region_of(gm, ["sin", "cos"], ["x_1", "mm"], ["sin", "cos"], lambda x, mm: (x.sin(), mm.cos()))
    made = write_forward(gm, [around], on_raise=refuse)
    assert made.given_up == (around,)
    x = torch.randn(3, 3)
    torch.testing.assert_close(made.forward([x]), (x.sin() @ x).cos() + x.sin())


def test_what_only_a_kernel_needed_is_not_computed_twice() -> None:
    gm = make_fx(lambda x: (x.view(6) * 2).exp())(torch.randn(2, 3))
    kernel = region_of(gm, ["view", "mul", "exp"], ["x_1"], ["exp"], lambda x: ((x.view(6) * 2).exp(),))
    assert "view" not in write_forward(gm, [kernel], on_raise=refuse).source


def test_random_draws_keep_their_order() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        a = torch.bernoulli(x)
        b = torch.bernoulli(x * 0.5)
        return b.exp() + a

    x = torch.rand(100)
    gm = make_fx(f)(x)
    torch.manual_seed(0)
    want = f(x)
    torch.manual_seed(0)
    torch.testing.assert_close(write_forward(gm, [], on_raise=refuse).forward([x]), want)


def test_names_of_the_graph_cannot_hide_python_or_kernels() -> None:
    class Named(torch.nn.Module):
        def forward(self, torch_: torch.Tensor, args: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
            return (torch_ + args) * kernel

    graph = fx.Graph()
    nodes = [graph.placeholder(n) for n in ("torch", "args", "kernel", "error")]
    total = graph.call_function(torch.ops.aten.add.Tensor, (nodes[0], nodes[1]))
    product = graph.call_function(torch.ops.aten.mul.Tensor, (total, nodes[2]))
    graph.output((product, nodes[3]))
    gm = fx.GraphModule(Named(), graph)
    kernel = Region("kernel", frozenset({product}), (total, nodes[2]), (), (product,), lambda a, b: (a * b,))
    forward = write_forward(gm, [kernel], on_raise=refuse).forward
    got, last = forward([torch.tensor(2.0), torch.tensor(3.0), torch.tensor(4.0), torch.tensor(9.0)])
    assert (got.item(), last.item()) == (20.0, 9.0)


def test_restride_copies_only_when_it_must() -> None:
    x = torch.randn(3, 1, 4)
    assert restride(x, (4, 99, 1)) is x
    assert restride(torch.empty(0, 3), (7, 7)).numel() == 0
    moved = restride(x, (1, 3, 3))
    assert moved.stride() == (1, 3, 3)
    torch.testing.assert_close(moved, x)


def test_a_kernel_for_which_memory_ran_out_is_kept(solver: ReferenceSolver) -> None:
    attempts = []

    def sometimes(_sub: Any, run: Any) -> Any:
        def go(*args: object) -> Any:
            attempts.append(args)
            if len(attempts) == 2:
                raise torch.OutOfMemoryError("none left")
            return run(*args)

        return go

    solver.wrap = sometimes
    g = torch.compile(lambda x: torch.mm((x * 2 + 1).relu(), x), backend="akg", options=ALL)
    for _ in range(4):
        x = torch.randn(4, 4)
        torch.testing.assert_close(g(x), torch.mm((x * 2 + 1).relu(), x))
    assert len(attempts) == 4
    assert not solver.quarantined
    (report,) = akg_dynamo.explain()
    assert not report.fallbacks


def test_a_kernel_that_raises_is_replaced_for_good(solver: ReferenceSolver, caplog: pytest.LogCaptureFixture) -> None:
    attempts = []

    def raising(_sub: Any, _run: Any) -> Any:
        def run(*args: object) -> Any:
            attempts.append(args)
            raise RuntimeError("the launch failed")

        return run

    solver.wrap = raising

    def f(x: torch.Tensor) -> torch.Tensor:
        return torch.mm((x * 2 + 1).relu(), x)

    g = torch.compile(f, backend="akg", options=ALL)
    with caplog.at_level(logging.ERROR, "akg_dynamo"):
        for _ in range(3):
            x = torch.randn(4, 4)
            torch.testing.assert_close(g(x), f(x))
    assert len(attempts) == 1
    assert caplog.text.count("raised; torch's operators replace it") == 1
    assert "the launch failed" in caplog.text
    assert len(solver.quarantined) == 1
    (report,) = akg_dynamo.explain()
    (fallback,) = report.fallbacks
    assert fallback.error == "RuntimeError: the launch failed"


def test_an_interrupt_is_not_a_failing_kernel(solver: ReferenceSolver) -> None:
    def interrupted(_sub: Any, _run: Any) -> Any:
        def run(*args: object) -> Any:
            raise KeyboardInterrupt

        return run

    solver.wrap = interrupted
    g = torch.compile(lambda x: (x * 2 + 1).relu(), backend="akg", options=ALL)
    with pytest.raises(KeyboardInterrupt):
        g(torch.ones(2))
    assert not akg_dynamo.explain()[0].fallbacks


def test_where_torch_fails_too_the_inputs_are_at_fault(solver: ReferenceSolver) -> None:
    """Eager's own error reaches the user, alone, and the kernel stays."""
    attempts = []

    def counting(_sub: Any, run: Any) -> Any:
        def wrapped(*args: object) -> Any:
            attempts.append(args)
            if int(args[1].max()) > 3:  # type: ignore[attr-defined]
                raise IndexError("the kernel's words")
            return run(*args)

        return wrapped

    solver.wrap = counting

    def f(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        return (x[index] * 2 + 1).relu()

    g = torch.compile(f, backend="akg", options=ALL)
    x, right, wrong = torch.ones(4), torch.tensor([3]), torch.tensor([7])
    for index in (right, wrong, right):
        if index is right:
            torch.testing.assert_close(g(x, index), f(x, index))
            continue
        with pytest.raises(IndexError, match="index 7 is out of bounds for dimension 0") as raised:
            g(x, index)
        assert "the kernel's words" not in "".join(traceback.format_exception(raised.value))
    assert len(attempts) == 3
    assert not solver.quarantined
    assert not akg_dynamo.explain()[0].fallbacks
