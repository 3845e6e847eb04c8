"""Kernels that write into dead tensors: who may, who must not, and what happens after a latch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx

import akg_dynamo
from akg_dynamo.core.types import Subgraph
from akg_dynamo.executor import Executable, write_forward
from akg_dynamo.schedule import Region

from .conftest import ReferenceSolver, Run, writing_into

ALL = {"gate": "correct"}
_KERNELS = frozenset({"mul", "add", "sigmoid", "relu", "sin", "neg", "div"})


def refuse(region: Region, error: Exception, arguments: tuple[Any, ...]) -> Any:
    raise AssertionError("no kernel should raise here") from error


def run_of(node: fx.Node) -> Run:
    """The node as a kernel of one operator: what is no tensor among its arguments is part of the kernel."""
    target: Any = node.target
    arguments = node.args

    def run(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        values = dict(zip(node.all_input_nodes, tensors, strict=True))
        return (target(*(values[a] if isinstance(a, fx.Node) else a for a in arguments)),)

    return run


def forward_of(gm: fx.GraphModule, *, in_place: bool = False) -> Executable:
    """The forward of the graph with every elementwise operator a kernel of its own.

    in_place: that may write over any of its inputs.
    """
    regions = []
    for node in gm.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload) and node.target.overloadpacket.__name__ in _KERNELS:
            run = run_of(node)
            into = writing_into(run, 1)
            inputs = tuple(node.all_input_nodes)
            pairs = tuple((0, i) for i in range(len(inputs))) if in_place else ()
            regions.append(
                Region(f"k_{node.name}", frozenset({node}), inputs, (), (node,), run, run_into=into, in_place=pairs)
            )
    return write_forward(gm, regions, on_raise=refuse)


def written(f: Any, *inputs: torch.Tensor, in_place: bool = False) -> Executable:
    """`forward_of` the function's graph."""
    return forward_of(make_fx(f)(*inputs), in_place=in_place)


def calls(made: Executable) -> list[str]:
    """The right-hand sides, in order."""
    lines = [line.strip() for line in made.source.splitlines() if " = " in line and "_raised" not in line]
    return [line.partition(" = ")[2] for line in lines]


X, W = torch.randn(4, 4), torch.randn(4, 4)


def test_a_kernel_takes_what_the_step_before_used_last() -> None:
    def f(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return torch.mm(torch.mm(x.relu(), w).sin(), w).neg()

    made = written(f, X, W)
    assert calls(made) == [
        "args",
        "k_relu(x_1)",
        "torch.mm(relu, w_1)",
        "k_sin_into(relu, mm)",
        "torch.mm(sin, w_1)",
        "k_neg_into(sin, mm_1)",
    ]
    assert "del mm, relu\n" in made.source
    for _ in range(2):
        torch.testing.assert_close(made.forward([X, W]), f(X, W))


def test_a_view_that_is_read_keeps_its_owner_alive() -> None:
    def f(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        a = x.relu()
        rows = a.t()
        c = torch.mm(rows, w)
        b = torch.mm(a, c).sin()  # `a` is no longer read, `rows` is
        return torch.mm(b, rows)

    made = written(f, X, W)
    assert "k_sin_into(mm, mm_1)" in made.source  # and not `relu`
    torch.testing.assert_close(made.forward([X, W]), f(X, W))


def test_a_dead_tensor_read_through_views_is_taken_once_they_are_dead() -> None:
    def f(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return torch.mm(x.relu().t(), w).sin()

    made = written(f, X, W)
    assert "k_sin_into(relu, mm)" in made.source
    torch.testing.assert_close(made.forward([X, W]), f(X, W))


def an_output(x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, ...]:
    a = x.relu()
    b = torch.mm(a, w).sin()
    return a, torch.mm(b, w)


def other_layout(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return torch.mm(x.t().relu(), w).sin()  # relu keeps the strides of its argument


def other_size(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return torch.mm(x.relu()[:2], w).sin()


def other_dtype(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return torch.mm(x.relu(), w).double().sin()


def a_reader_that_may_return_its_argument(x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    product = torch.mm(x, w)
    kept = torch.ops.aten.constant_pad_nd(x.relu(), [0, 0], 0.0)
    return kept, product.sin()


def an_allocation_in_between(x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    a = torch.mm(x.relu(), w)  # relu dies here
    b = torch.mm(a, w)  # its memory may serve this
    return b.sin(), a


def updated_in_place(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    product = torch.mm(x, w)
    a = torch.ops.aten.masked_fill(x.relu(), w > 0, 2.0)
    return torch.mm(product.sin(), a)


@pytest.mark.parametrize(
    "f",
    [
        an_output,
        other_layout,
        other_size,
        other_dtype,
        a_reader_that_may_return_its_argument,
        an_allocation_in_between,
        updated_in_place,
    ],
)
def test_what_must_not_be_taken(f: Any) -> None:
    made = written(f, X, W)
    assert "_into" not in made.source
    x = X.clone()
    torch.testing.assert_close(made.forward([x, W]), f(X, W))
    torch.testing.assert_close(x, X)


def test_a_kernel_writes_over_an_input_that_it_reads_last() -> None:
    def f(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        a = torch.mm(x, w)
        b = torch.mm(a.sin() + a, w)
        return (b * a).neg()

    made = written(f, X, W, in_place=True)
    assert calls(made)[1:] == [
        "torch.mm(x_1, w_1)",
        "k_sin(mm)",
        "k_add_into(sin, sin, mm)",
        "torch.mm(add, w_1)",
        "k_mul_into(mm_1, mm_1, mm)",
        "k_neg_into(mul, mul)",
    ]
    for _ in range(2):
        torch.testing.assert_close(made.forward([X, W]), f(X, W))
    assert "_into(sin, sin" not in written(f, X, W).source


def test_a_kernel_writes_over_what_it_reads_through_a_view() -> None:
    def f(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return torch.mm(torch.mm(x, w).view(2, 8).view(4, 4).sin(), w)

    made = written(f, X, W, in_place=True)
    assert "k_sin_into(view_1, view_1)" in made.source
    for _ in range(2):
        torch.testing.assert_close(made.forward([X, W]), f(X, W))


def test_of_several_outputs_some_are_allocated() -> None:
    def f(x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        a = torch.mm(x, w)
        return torch.mm(a.sin(), w), a.to(torch.float64).neg()

    gm = make_fx(f)(X, W)
    sin, wide = (next(n for n in gm.graph.nodes if n.name == name) for name in ("sin", "_to_copy"))

    def run(a: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return a.sin(), a.double()

    region = Region(
        "both",
        frozenset({sin, wide}),
        (sin.args[0],),
        (),
        (sin, wide),
        run,
        run_into=writing_into(run, 2),
        in_place=((0, 0),),
    )
    made = write_forward(gm, [region], on_raise=refuse)
    allocation = "torch.empty_strided((4, 4), (4, 1), dtype=torch.float64, device=device_cpu)"
    assert f"sin, _to_copy = both_into(mm, {allocation}, mm)" in made.source
    for _ in range(2):
        torch.testing.assert_close(made.forward([X, W]), f(X, W))


def both_sides(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    a = torch.mm(x, w)
    return a + a.t()  # one of the two reads in another order


def a_graph_input(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return (x * w).sum()


def a_view_of_a_graph_input(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return x.view(2, 8).view(4, 4).sin().sum()


def an_output_as_well(x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    a = torch.mm(x, w)
    return a, a.sin()


def another_size(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return torch.mm(x[:1], w) * x


def a_part(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return torch.mm(torch.mm(x, w)[:2].sin(), w)  # what is made here would hold the whole


def returned_though_a_view(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return torch.mm(x, w).view(2, 8).view(4, 4).sin()


@pytest.mark.parametrize(
    "f",
    [
        both_sides,
        a_graph_input,
        a_view_of_a_graph_input,
        an_output_as_well,
        another_size,
        a_part,
        returned_though_a_view,
    ],
)
def test_what_must_not_be_written_over(f: Any) -> None:
    made = written(f, X, W, in_place=True)
    assert "_into" not in made.source
    x = X.clone()
    torch.testing.assert_close(made.forward([x, W]), f(X, W))
    torch.testing.assert_close(x, X)


def test_an_operator_writes_over_an_operand_that_it_reads_last() -> None:
    def f(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        a = torch.mm(x, w)
        b = torch.mm(torch.nn.functional.gelu(a), w)
        c = torch.mm(torch.maximum(x, b), w)
        return torch.mm(torch.maximum(c * c, c).t().tanh(), w)

    made = written(f, X, W)
    assert calls(made)[1:] == [
        "torch.mm(x_1, w_1)",
        "gelu_1(mm, out=mm)",
        "torch.mm(gelu, w_1)",
        "torch.maximum(x_1, mm_1, out=mm_1)",
        "torch.mm(maximum, w_1)",
        "k_mul(mm_2)",  # `maximum` was read by torch alone: its layout is not checked
        "torch.maximum(mul, mm_2)",  # a kernel reads both
        "maximum_1.t()",
        "torch.tanh(t, out=t)",
        "torch.mm(tanh, w_1)",
    ]
    for _ in range(2):
        torch.testing.assert_close(made.forward([X, W]), f(X, W))


def read_again(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    a = torch.mm(x, w)
    return torch.mm(a.tanh(), a)


def read_again_through_a_view(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    a = torch.mm(x, w)
    rows = a.t()
    return torch.mm(a.tanh(), rows)


def both_orders(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    a = torch.mm(x, w)
    return torch.maximum(a, a.t())


def of_a_graph_input(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return torch.mm(x.tanh(), w)


def returned_too(x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    a = torch.mm(x, w)
    return a, a.tanh()


def returned_and_a_view(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return torch.mm(x, w).view(2, 8).view(4, 4).tanh()


def a_part_of_it(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return torch.mm(torch.mm(x, w)[:2].tanh(), w)


def a_wider_type(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return torch.maximum(torch.mm(x, w), w.double())


def a_larger_result(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return torch.maximum(torch.mm(x[:1], w), x)


def another_layout(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return torch.maximum(w.t(), torch.mm(x, w))  # laid out as the first operand is


def a_kernel_before(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return torch.mm(torch.mm(x, w).sin().tanh(), w)  # what runs in the kernel's place may return its argument


def a_reader_in_between(x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    a = torch.mm(x, w)
    return torch.ops.aten.constant_pad_nd(a, [0, 0], 0.0), a.tanh()


@pytest.mark.parametrize(
    "f",
    [
        read_again,
        read_again_through_a_view,
        both_orders,
        of_a_graph_input,
        returned_too,
        returned_and_a_view,
        a_part_of_it,
        a_wider_type,
        a_larger_result,
        another_layout,
        a_kernel_before,
        a_reader_in_between,
    ],
)
def test_what_no_operator_writes_over(f: Any) -> None:
    made = written(f, X, W)
    assert "out=" not in made.source
    x, w = X.clone(), W.clone()
    torch.testing.assert_close(made.forward([x, w]), f(X, W))
    torch.testing.assert_close((x, w), (X, W))


def test_symbolic_sizes_are_compared_without_guards() -> None:
    x, y = torch.randn(3, 5), torch.randn(5, 5)
    gm = make_fx(lambda x, y: torch.mm(x.relu(), y).sin(), tracing_mode="symbolic")(x, y)
    env = next(n for n in gm.graph.nodes if n.name == "relu").meta["val"].shape[0].node.shape_env
    before = len(env.guards)
    made = forward_of(gm)
    assert len(env.guards) == before
    assert "k_sin_into(relu, mm)" in made.source
    torch.testing.assert_close(made.forward([x, y]), torch.mm(x.relu(), y).sin())


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["relu", "sin", "neg", "add", "mul", "mm", "mm", "mm", "t", "view", "clone", "split", "tanh", "maximum"]
        ),
        st.integers(0, 3),
        st.integers(0, 3),
    ),
    min_size=4,
    max_size=16,
)


@settings(max_examples=200, deadline=None)
@given(_STEPS, st.sets(st.integers(0, 20), max_size=2))
def test_random_graphs_compute_what_they_did(program: list[tuple[str, int, int]], returned: set[int]) -> None:
    def f(x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, ...]:
        values = [x, w]
        for name, i, j in program:
            a, b = values[-1 - i % len(values)], values[-1 - j % len(values)]
            if name == "view":
                made = a.reshape(2, 8).view(4, 4)
            elif name == "split":
                made = torch.cat([a[2:], a[:2]])
            elif name in ("add", "mul", "mm"):
                made = getattr(torch, name)(a, b) / 4
            elif name == "maximum":
                made = torch.maximum(a, b)
            else:
                made = getattr(a, name)()
            values.append(made)
        return (values[-1], *(values[k % len(values)] for k in sorted(returned)))

    for in_place in (False, True):
        x, w = X.clone(), W.clone()
        got = written(f, X, W, in_place=in_place).forward([x, w])
        torch.testing.assert_close(tuple(got), f(X, W))
        torch.testing.assert_close((x, w), (X, W))


def test_after_a_latch_nothing_is_written_into(solver: ReferenceSolver) -> None:
    """What torch returns in a kernel's place may share memory, or be laid out otherwise."""
    into: list[Subgraph] = []
    failing: list[Subgraph] = []

    def wrap(sub: Subgraph, run: Run) -> Run:
        def go(*args: object) -> tuple[torch.Tensor, ...]:
            if sub in failing:
                raise RuntimeError("no")
            return run(*args)

        return go

    solver.wrap = wrap
    solver.wrap_into = lambda sub, run_into: lambda *args: into.append(sub) or run_into(*args)  # type: ignore[func-returns-value]

    def f(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        for _ in range(3):
            x = torch.mm(torch.sigmoid(x * 2 + 1), w)
            x = torch.mm(torch.sin(x) + x, w)
        return x

    g = torch.compile(f, backend="akg", options=ALL)
    with torch.no_grad():
        torch.testing.assert_close(g(X, W), f(X, W))
        first, second = solver.solved
        assert into == [first, second, first, second]  # the first call of a kernel goes the marked way
        failing.append(second)  # its first call in this forward writes into what `first` made
        into.clear()
        for _ in range(2):
            torch.testing.assert_close(g(X, W), f(X, W))
        assert into == [second]


def test_linear_layers_and_convolutions(solver: ReferenceSolver) -> None:
    """What they have read is free, and what they returned is the kernel's that reads it."""
    solver.pairs = ((0, 0),)
    for layer, x in [
        (torch.nn.Linear(4, 4), torch.randn(2, 2, 4)),
        (torch.nn.Conv2d(2, 2, 1), torch.randn(1, 2, 3, 3)),
    ]:
        layers = torch.nn.Sequential(torch.nn.SiLU(), layer, torch.nn.GELU(), layer, torch.nn.Softplus())
        g = torch.compile(layers, backend="akg", options=ALL)
        with torch.no_grad():
            for _ in range(2):
                torch.testing.assert_close(g(x), layers(x))
        name = "linear_default" if x.dim() == 3 else "convolution"
        lines = akg_dynamo.explain()[-1].source.splitlines()
        assert sum(f"_into({name}" in line for line in lines) == 2, lines
    solver.pairs = ()
    torch._dynamo.reset()
    g = torch.compile(layers, backend="akg", options=ALL)
    with torch.no_grad():
        torch.testing.assert_close(g(x), layers(x))
    assert "_into(silu" in akg_dynamo.explain()[-1].source


def test_the_first_call_of_a_kernel_goes_the_marked_way() -> None:
    gm = make_fx(lambda x, w: torch.mm(x.relu(), w).sin())(X, W)
    nodes = {n.name: n for n in gm.graph.nodes}
    went: list[str] = []
    regions = []
    for name in ("relu", "sin"):
        run = run_of(nodes[name])

        def first(*args: torch.Tensor, run: Run = run, name: str = name) -> tuple[torch.Tensor, ...]:
            went.append(f"first {name}")
            return run(*args)

        def into(*args: torch.Tensor, run: Run = run, name: str = name) -> tuple[torch.Tensor, ...]:
            went.append(f"{name} into")
            return writing_into(run, 1)(*args)

        inputs = tuple(nodes[name].all_input_nodes)
        regions.append(Region(name, frozenset({nodes[name]}), inputs, (), (nodes[name],), run, first, into))
    made = write_forward(gm, regions, on_raise=refuse)
    for _ in range(2):
        torch.testing.assert_close(made.forward([X, W]), torch.mm(X.relu(), W).sin())
    assert went == ["first relu", "first sin", "sin into"]
