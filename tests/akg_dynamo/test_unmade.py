"""Views that only kernels read: which are not made, and what a kernel's stand-in is given after it raised."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx

import akg_dynamo
from akg_dynamo.core.types import Subgraph
from akg_dynamo.executor import Executable, OnRaise, write_forward
from akg_dynamo.schedule import Region

from .conftest import ReferenceSolver, Run

X, W = torch.randn(4, 4), torch.randn(4)
_KERNELS = frozenset({"mul", "add", "sin"})


def refuse(region: Region, error: Exception, arguments: tuple[Any, ...]) -> Any:
    raise AssertionError("no kernel should raise here") from error


def by_address(node: fx.Node, nodes: list[fx.Node]) -> Run:
    """The operator as a kernel of ours has it: it reads where a tensor begins, laid out as the graph says."""
    target: Any = node.target
    layouts = [(tuple(n.meta["val"].shape), n.meta["val"].stride()) for n in nodes]

    def run(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        read = [torch.as_strided(t, *layout) for t, layout in zip(tensors, layouts, strict=True)]
        values = dict(zip(nodes, read, strict=True))
        return (target(*(values[a] if isinstance(a, fx.Node) else a for a in node.args)),)

    return run


def written(
    f: Callable[..., Any],
    *inputs: torch.Tensor,
    reads_addresses: bool = True,
    on_raise: OnRaise = refuse,
    wrap: Callable[[Run], Run] = lambda run: run,
    guarded: bool = True,
) -> Executable:
    """The forward of the function with each of `_KERNELS` a kernel."""
    gm = make_fx(f)(*inputs)
    regions = []
    for node in gm.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload) and node.target.overloadpacket.__name__ in _KERNELS:
            nodes = node.all_input_nodes
            run = wrap(by_address(node, nodes))
            region = Region(
                f"k_{node.name}", frozenset({node}), tuple(nodes), (), (node,), run, reads_addresses=reads_addresses
            )
            regions.append(region)
    return write_forward(gm, regions, on_raise=on_raise, inputs_are_guarded=guarded)


def normal(made: Executable) -> str:
    """The source without what is done when a kernel raises."""
    lines = made.source.splitlines()
    return "\n".join(
        line for line in lines if not line.startswith(" " * 8) or (" = k_" in line and "_raised" not in line)
    )


def chain(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return torch.ops.aten.mul.Tensor(x, w.unsqueeze(1).expand(4, 4).t())


def test_a_chain_of_views_for_a_kernel_is_not_made() -> None:
    made = written(chain, X, W)
    assert "k_mul(x_1, w_1)" in made.source
    assert "unsqueeze" not in normal(made)
    torch.testing.assert_close(made.forward([X, W]), chain(X, W))


def also_an_output(x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, ...]:
    t = x.t()
    return t.sin(), t


def also_read_by_torch(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    t = x.t()
    return t.sin() @ t


def begins_elsewhere(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return x.select(0, 1).sin()


def another_dtype(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return x.view(torch.int32).sin()


@pytest.mark.parametrize("f", [also_an_output, also_read_by_torch, begins_elsewhere, another_dtype])
def test_views_that_are_made(f: Callable[..., Any]) -> None:
    made = written(f, X, W)
    assert "k_sin(x_1)" not in made.source
    torch.testing.assert_close(made.forward([X, W]), f(X, W))


def test_a_view_that_begins_with_its_base_is_not_made() -> None:
    made = written(lambda x: x[0].sin() + x[:2, :3].sin().sum(), X)
    assert made.source.count("k_sin(x_1)") + made.source.count("k_sin_1(x_1)") == 2
    torch.testing.assert_close(made.forward([X]), X[0].sin() + X[:2, :3].sin().sum())


def test_a_kernel_that_asks_for_more_than_addresses_is_given_the_view() -> None:
    made = written(chain, X, W, reads_addresses=False)
    assert "k_mul(x_1, t)" in made.source


def test_the_base_is_relaid_where_its_strides_may_differ() -> None:
    made = written(lambda x: x.t().sin(), X, guarded=False)
    assert "k_sin(x_1)" in made.source
    torch.testing.assert_close(made.forward([X.t().contiguous().t()]), X.t().sin())


def test_after_an_error_the_operators_are_given_the_views() -> None:
    given_shapes = []
    failing = True

    def wrap(run: Run) -> Run:
        def go(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            if failing:
                raise RuntimeError("no")
            return run(*tensors)

        return go

    def on_raise(region: Region, error: Exception, arguments: tuple[Any, ...]) -> Any:
        def original(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            given_shapes.append([tuple(t.shape) for t in tensors])
            return (torch.mul(*tensors),)

        assert isinstance(error, RuntimeError)
        return original(*arguments), original

    made = written(chain, X, W, wrap=wrap, on_raise=on_raise)
    for _ in range(3):
        torch.testing.assert_close(made.forward([X, W]), chain(X, W))
        failing = False  # what has raised once is not called again
    assert given_shapes == [[(4, 4), (4, 4)]] * 3


def test_a_kernel_for_which_memory_ran_out_is_still_given_bases() -> None:
    runs = []

    def wrap(run: Run) -> Run:
        def go(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            runs.append([tuple(t.shape) for t in tensors])
            if len(runs) == 1:
                raise torch.OutOfMemoryError("none left")
            return run(*tensors)

        return go

    def on_raise(region: Region, error: Exception, arguments: tuple[Any, ...]) -> Any:
        return (torch.mul(*arguments),), region.run

    made = written(chain, X, W, wrap=wrap, on_raise=on_raise)
    for _ in range(3):
        torch.testing.assert_close(made.forward([X, W]), chain(X, W))
    assert runs == [[(4, 4), (4,)]] * 3


def test_one_kernel_in_two_places_with_and_without_views(solver: ReferenceSolver) -> None:
    """Both fail, one after the other; each goes on with its own arguments."""
    solver.reads_addresses = True
    solver.wrap = lambda sub, run: addressed(sub, run, fail_at={2, 3})

    def f(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        first = (x.view(4, 4) * 2).sin()
        return torch.mm((y * 2).sin(), torch.mm(first, y))

    g = torch.compile(f, backend="akg", options={"gate": "correct"})
    x, y = torch.randn(16), torch.randn(4, 4)
    for _ in range(4):
        torch.testing.assert_close(g(x, y), f(x, y))
    assert len({sub.digest for sub in solver.solved}) == len(solver.solved) == 1
    report = akg_dynamo.explain()[-1]
    assert len(report.fallbacks) == 2
    assert ".view(" not in "".join(line for line in report.source.splitlines() if not line.startswith(" " * 8))


def addressed(sub: Subgraph, run: Run, fail_at: set[int]) -> Run:
    calls = 0

    def go(*args: Any) -> tuple[torch.Tensor, ...]:
        nonlocal calls
        calls += 1
        if calls in fail_at:
            raise RuntimeError("no")
        read = [torch.as_strided(a, spec.shape, spec.stride) for a, spec in zip(args, sub.inputs, strict=True)]
        return run(*read)

    return go


_STEPS = st.lists(
    st.sampled_from(
        ["t", "sin", "unsqueeze", "squeeze", "half", "other half", "expand", "flat", "square", "mm", "add"]
    ),
    min_size=1,
    max_size=14,
)


@settings(max_examples=60, deadline=None)
@given(_STEPS, st.booleans())
def test_random_graphs_of_views_and_kernels(names: list[str], guarded: bool) -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        value, before = x, x
        for name in names:
            old = value
            match name:
                case "t" if value.dim() == 2:
                    value = value.t()
                case "sin":
                    value = value.sin()
                case "unsqueeze" if value.dim() < 4:
                    value = value.unsqueeze(-1)
                case "squeeze":
                    value = value.squeeze()
                case "half" if value.dim() and value.shape[0] > 1:
                    value = value[: value.shape[0] // 2]
                case "other half" if value.dim() and value.shape[0] > 1:
                    value = value[value.shape[0] // 2 :]
                case "expand" if value.dim() == 2 and 1 in value.shape:
                    value = value.expand(max(value.shape), max(value.shape))
                case "flat" if value.is_contiguous():
                    value = value.view(-1)
                case "square" if value.dim() == 1 and value.shape[0] == 4 and value.is_contiguous():
                    value = value.view(2, 2)
                case "mm" if value.dim() == 2 and value.shape[0] == value.shape[1]:
                    value = torch.mm(value, value)
                case "add" if value.shape == before.shape:
                    value = value + before
            before = old
        return value

    x = torch.randn(8, 8)
    made = written(f, x, guarded=guarded)
    for _ in range(2):
        torch.testing.assert_close(made.forward([x]), f(x), equal_nan=True)
