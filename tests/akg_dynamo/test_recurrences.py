"""Backward passes of loops as autograd writes them: rewritten to be loops, with the same values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.exc import BackendCompilerFailed
from torch._functorch import config
from torch._functorch._aot_autograd.utils import make_boxed_func
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from akg_dynamo import rematerialise, stacked
from akg_dynamo.batched import batch_products
from akg_dynamo.fusion.unrolled import graph_loops
from akg_dynamo.recurrences import complete_first_trips, plain_operators

aten = torch.ops.aten
TRIPS = 6


def graph(f: Callable[..., object], *inputs: Tensor) -> fx.GraphModule:
    with FakeTensorMode() as mode:
        return make_fx(f)(*map(mode.from_tensor, inputs))


def targets(g: fx.Graph) -> Counter[Any]:
    return Counter(n.target for n in g.nodes if n.op == "call_function")


def same(gm: fx.GraphModule, f: Callable[..., Any], *inputs: Tensor, rtol: float = 0.0) -> None:
    gm.graph.eliminate_dead_code()
    gm.graph.lint()
    gm.recompile()
    got, want = gm(*inputs), f(*inputs)
    torch.testing.assert_close(got, want, rtol=rtol, atol=rtol)
    assert got.stride() == want.stride()


# --------------------------------------------------------------------------------------------------------------------
# Stacks of products


def products_of_slices(states: Tensor, g: Tensor, w: Tensor) -> Tensor:
    """Along other dims, through views and casts, and by something they share."""
    rows = [
        torch.bmm(states.select(0, i).to(torch.float64).transpose(1, 2), (g.select(-1, i) * w).unsqueeze(2)).squeeze(-1)
        for i in range(TRIPS)
    ]
    return torch.stack(rows, 2)


def test_a_stack_of_products_is_a_batched_product() -> None:
    inputs = torch.randn(TRIPS, 2, 40, 16), torch.randn(2, 40, TRIPS, dtype=torch.float64), torch.randn(40).double()
    gm = graph(products_of_slices, *inputs)
    batch_products(gm.graph)
    same(gm, products_of_slices, *inputs, rtol=1e-12)
    assert targets(gm.graph)[aten.bmm.default] == 1
    assert not targets(gm.graph)[aten.stack.default]


def others_read_a_product(x: Tensor, w: Tensor) -> Tensor:
    rows = [torch.mm(x.select(0, i), w) for i in range(TRIPS)]
    return torch.stack(rows) + rows[2].exp()


def one_is_another_function(x: Tensor, w: Tensor) -> Tensor:
    return torch.stack([torch.mm(x.select(0, i), w if i else w + 1) for i in range(TRIPS)])


def out_of_order(x: Tensor, w: Tensor) -> Tensor:
    return torch.stack([torch.mm(x.select(0, i), w) for i in reversed(range(TRIPS))])


def some_of_the_slices(x: Tensor, w: Tensor) -> Tensor:
    return torch.stack([torch.mm(x.select(0, i), w) for i in range(TRIPS - 1)])


@pytest.mark.parametrize("f", [others_read_a_product, one_is_another_function, out_of_order, some_of_the_slices])
def test_other_stacks_stay(f: Callable[..., Tensor]) -> None:
    inputs = torch.randn(TRIPS, 8, 4), torch.randn(4, 5)
    gm = graph(f, *inputs)
    before = targets(gm.graph)
    batch_products(gm.graph)
    same(gm, f, *inputs)
    assert targets(gm.graph) == before


# --------------------------------------------------------------------------------------------------------------------
# Operators


def of_one_term(g: Tensor, c: Tensor) -> Tensor:
    return torch.bmm(aten.select_backward(g.select(2, 1), [2, 8, 1], 2, 0), c.transpose(1, 2))


def test_products_of_one_term_and_gradients_of_only_slices() -> None:
    inputs = torch.randn(2, 8, 3), torch.randn(2, 5, 1)
    gm = graph(of_one_term, *inputs)
    plain_operators(gm.graph)
    same(gm, of_one_term, *inputs)
    assert targets(gm.graph) == Counter([aten.select.int, aten.unsqueeze.default, aten.transpose.int, aten.mul.Tensor])


def of_two_terms(g: Tensor, c: Tensor) -> Tensor:
    return torch.bmm(aten.select_backward(g, [2, 8, 2], 2, 0), c)


def test_others_stay() -> None:
    inputs = torch.randn(2, 8), torch.randn(2, 2, 5)
    gm = graph(of_two_terms, *inputs)
    plain_operators(gm.graph)
    same(gm, of_two_terms, *inputs)
    assert targets(gm.graph) == Counter([aten.select_backward.default, aten.bmm.default])


def returned_as_it_lies(g: Tensor) -> Tensor:
    return aten.select_backward(g.select(1, 0), [2, 8, 1], 2, 0)


def test_what_would_be_laid_out_otherwise_stays() -> None:
    inputs = (torch.randn(2, 3, 8).transpose(1, 2).contiguous().transpose(1, 2),)
    gm = graph(returned_as_it_lies, *inputs)
    plain_operators(gm.graph)
    same(gm, returned_as_it_lies, *inputs)
    assert targets(gm.graph)[aten.select_backward.default] == 1


# --------------------------------------------------------------------------------------------------------------------
# First trips


def scan_backwards(g: Tensor, a: Tensor) -> Tensor:
    rows = [g.select(1, TRIPS - 1).exp()]
    for i in reversed(range(TRIPS - 1)):
        rows.append(rows[-1] * a.select(1, i + 1) + g.select(1, i).exp())
    return torch.stack(rows[::-1], 1)


def test_a_first_trip_adds_to_zeros() -> None:
    inputs = torch.randn(3, TRIPS, 5), torch.randn(3, TRIPS, 5)
    gm = graph(scan_backwards, *inputs)
    assert not graph_loops(gm.graph)
    complete_first_trips(gm.graph)
    (loop,) = graph_loops(gm.graph)
    assert loop.loop.trips == TRIPS
    assert [out.backwards for out in loop.loop.outs] == [True]
    same(gm, scan_backwards, *inputs)


def no_loop(x: Tensor) -> Tensor:
    rows = [x.select(0, 0).exp()]
    for i in range(1, TRIPS):
        rows.append(rows[-1] * (i * i) + x.select(0, i).exp())
    return torch.stack(rows)


def test_what_is_no_loop_stays() -> None:
    inputs = (torch.randn(TRIPS, 8),)
    gm = graph(no_loop, *inputs)
    before = targets(gm.graph)
    complete_first_trips(gm.graph)
    assert targets(gm.graph) == before
    same(gm, no_loop, *inputs)


# --------------------------------------------------------------------------------------------------------------------
# All of it, in a training step


def selective_scan(decay: Tensor, fed: Tensor, c: Tensor) -> Tensor:
    decay, fed, c = decay.exp(), fed * 2, c.sin()
    state, rows = torch.zeros_like(fed[:, :, 0]), []
    for i in range(TRIPS):
        state = decay[:, :, i] * state + fed[:, :, i]
        rows.append(torch.matmul(state, c[:, i, :, None])[:, :, 0])
    return torch.stack(rows, -1)


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs of CPU tensors are rewritten as those of a GPU are."""
    monkeypatch.setattr(rematerialise, "main_device", lambda _: "cuda")
    monkeypatch.setattr(stacked, "computable", lambda _node, _device: True)


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_passes_of_a_scan_are_loops(dtype: torch.dtype) -> None:
    graphs: list[fx.Graph] = []

    def kept(gm: fx.GraphModule, _inputs: object) -> Any:
        graphs.append(gm.graph)
        gm.graph.lint()
        gm.recompile()
        return make_boxed_func(gm.forward)

    def gradients(f: Callable[..., Tensor]) -> list[Tensor]:
        torch.manual_seed(0)
        shapes = (2, 8, TRIPS, 4), (2, 8, TRIPS, 4), (2, TRIPS, 4)
        inputs = [torch.randn(shape).to(dtype).requires_grad_() for shape in shapes]
        y = f(*inputs)
        (y * torch.randn(y.shape).to(dtype)).sum().backward()
        return [y, *(t.grad for t in inputs if t.grad is not None)]

    torch._dynamo.reset()
    compiler = aot_autograd(fw_compiler=kept, bw_compiler=kept, decompositions={}, partition_fn=rematerialise.partition)
    with config.patch(enable_autograd_cache=False):
        got = gradients(torch.compile(selective_scan, backend=compiler))
    want = gradients(selective_scan)
    assert len(got) == len(want) == 4
    tolerance = 1e-6 if dtype is torch.float32 else 2e-2
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)
    forward, backward = graphs
    assert [loop.loop.trips for loop in graph_loops(forward)] == [TRIPS]
    (loop,) = graph_loops(backward)
    assert [out.backwards for out in loop.loop.outs] == [True]
    assert len(backward.find_nodes(op="placeholder")) <= TRIPS, "slices are not saved one by one"
    assert targets(backward)[aten.bmm.default] == 1


@pytest.mark.usefixtures("as_on_a_gpu")
def test_products_stay_where_they_have_to(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: fx.Graph) -> None:
        raise AssertionError("products are another's")

    monkeypatch.setattr(rematerialise, "batch_products", refuse)
    monkeypatch.setattr(rematerialise, "plain_operators", refuse)
    torch._dynamo.reset()
    x = torch.randn(4, 4, requires_grad=True)
    torch.compile(lambda x: torch.mm(x, x).exp(), backend="akg", options={"numerics": "eager"})(x).sum().backward()
    assert x.grad is not None
    torch._dynamo.reset()
    with pytest.raises(BackendCompilerFailed, match="another's"):
        torch.compile(lambda x: torch.mm(x, x).sin(), backend="akg")(x)
