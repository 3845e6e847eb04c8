"""What a loop over slices keeps, adds up or computes of each, as one tensor: the same values, and fewer nodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from akg_dynamo.stacked import compute_slices, compute_stacked, stack_gradients, stack_saved

aten = torch.ops.aten
SLICES = 6


def graph(f: Callable[..., object], *shapes: tuple[int, ...], device: str = "cpu") -> fx.GraphModule:
    with FakeTensorMode():
        return make_fx(f)(*(torch.empty(shape, device=device) for shape in shapes))


def targets(gm: fx.GraphModule) -> Counter[Any]:
    return Counter(n.target for n in gm.graph.nodes if n.op == "call_function")


def same(gm: fx.GraphModule, f: Callable[..., Any], *shapes: tuple[int, ...]) -> None:
    gm.graph.lint()
    gm.recompile()
    inputs = [torch.randn(shape) for shape in shapes]
    torch.testing.assert_close(gm(*inputs), f(*inputs), rtol=0, atol=0)


def sum_of_gradients(x: Tensor) -> Tensor:
    total = aten.select_backward(x.select(0, 0) * 2, [4, SLICES], 1, 0)
    for i in range(1, SLICES):
        total = total + aten.select_backward(x.select(0, i) * 2, [4, SLICES], 1, i)
    return total.exp()


def test_a_gradient_for_each_place_is_a_stack() -> None:
    gm = graph(sum_of_gradients, (SLICES, 4))
    stack_gradients(gm.graph)
    found = targets(gm)
    assert found[aten.stack.default] == 1
    assert not found[aten.select_backward.default]
    same(gm, sum_of_gradients, (SLICES, 4))


def one_is_missing(x: Tensor) -> Tensor:
    a, b = (aten.select_backward(x.select(0, i), [4, 3], 1, i) for i in range(2))
    return a + b


def one_comes_twice(x: Tensor) -> Tensor:
    a, b, c = (aten.select_backward(x.select(0, i), [4, 3], 1, min(i, 1)) for i in range(3))
    return a + b + c


def something_else_is_added(x: Tensor) -> Tensor:
    a, b = (aten.select_backward(x.select(0, i), [4, 2], 1, i) for i in range(2))
    return a + b + a.exp()


@pytest.mark.parametrize("f", [one_is_missing, one_comes_twice, something_else_is_added])
def test_other_sums_stay(f: Callable[[Tensor], Tensor]) -> None:
    gm = graph(f, (3, 4))
    before = targets(gm)
    stack_gradients(gm.graph)
    assert targets(gm) == before
    same(gm, f, (3, 4))


def of_slices(x: Tensor, y: Tensor, first: Tensor) -> Tensor:
    """Of all of x, and of `first` before y's."""
    rows = [x.select(1, 0) * first, *(x.select(1, i) * y.select(0, i - 1) for i in range(1, SLICES))]
    return torch.stack(rows, 1)


SHAPES = ((3, SLICES, 5), (SLICES, 3, 5), (3, 5))


def test_a_function_of_slices_is_a_function_of_all() -> None:
    gm = graph(of_slices, *SHAPES)
    compute_stacked(gm.graph)
    gm.graph.eliminate_dead_code()
    assert targets(gm)[aten.mul.Tensor] == 1
    assert not targets(gm)[aten.stack.default]
    same(gm, of_slices, *SHAPES)


def of_a_stack(x: Tensor) -> tuple[Tensor, Tensor]:
    rows = list((x + 1).unbind(0))
    return torch.stack(rows), torch.stack([row * 2 for row in rows])


def test_a_function_of_what_is_stacked() -> None:
    gm = graph(of_a_stack, (SLICES, 5))
    compute_stacked(gm.graph)
    assert targets(gm)[aten.mul.Tensor] == 1
    same(gm, of_a_stack, (SLICES, 5))


def scattered(x: Tensor) -> Tensor:
    return torch.stack([x.select(0, i) * 2 for i in (0, 2, 4, 1, 3)])


def read_twice(x: Tensor) -> tuple[Tensor, Tensor]:
    rows = [x.select(0, i) * 2 for i in range(SLICES)]
    return torch.stack(rows), rows[0]


@pytest.mark.parametrize("f", [scattered, read_twice])
def test_other_stacks_stay(f: Callable[[Tensor], Any]) -> None:
    gm = graph(f, (SLICES, 4))
    before = targets(gm)
    compute_stacked(gm.graph)
    assert targets(gm) == before
    same(gm, f, (SLICES, 4))


def in_slices(x: Tensor, y: Tensor, grads: Tensor) -> tuple[Tensor, ...]:
    """The product is broadcast, and read as a whole, too."""
    product = torch.exp(x.unsqueeze(2) * y)
    rows = [grads.select(0, i) * product.select(1, i) for i in range(SLICES)]
    return (*rows, product.sum(0))


IN_SLICES = ((3, SLICES, 5), (4, 1), (SLICES, 3, 4, 5))


def test_what_is_read_in_slices_is_computed_in_slices() -> None:
    def f(x: Tensor, y: Tensor, grads: Tensor) -> tuple[Tensor, ...]:
        return in_slices(x, y.expand(4, 5), grads)

    gm = graph(f, *IN_SLICES)
    compute_slices(gm.graph)
    gm.graph.eliminate_dead_code()
    (whole,) = [n for n in gm.graph.nodes if n.target is aten.exp.default and n.meta["val"].dim() == 4]
    assert [u.target for u in whole.users] == [aten.sum.dim_IntList]
    assert targets(gm)[aten.exp.default] == SLICES + 1
    same(gm, f, *IN_SLICES)


def laid_out_by_them(x: Tensor) -> tuple[Tensor, ...]:
    """The results are as the slices lie."""
    product = x.exp()
    return tuple(product.select(2, i) * 2 for i in range(SLICES))


def test_what_would_be_laid_out_otherwise_stays() -> None:
    shape = (4, 5, SLICES)
    gm = graph(laid_out_by_them, shape)
    compute_slices(gm.graph)
    gm.graph.eliminate_dead_code()
    inputs = [torch.randn(shape)]
    gm.recompile()
    for got, want in zip(gm(*inputs), laid_out_by_them(*inputs), strict=True):
        assert torch.equal(got, want)
        assert got.stride() == want.stride()


def test_what_was_tried_is_gone() -> None:
    def views(x: Tensor) -> tuple[Tensor, ...]:
        product = x.exp()
        return tuple(product.select(2, i).unsqueeze(1) for i in range(SLICES))

    gm = graph(views, (4, 5, SLICES))
    before = targets(gm)
    compute_slices(gm.graph)
    assert targets(gm) == before


def recurrence(x: Tensor, state: Tensor) -> tuple[Tensor, ...]:
    states, rows = [], []
    for i in range(SLICES):
        state = state * 0.5 + x.select(0, i)
        states.append(state)
        rows.append(state.to(torch.float16) * 2)
    # a backward pass reads some of the states, and some as they were rounded
    return torch.stack(rows), states[1].exp(), states[4].to(torch.float16).cos(), states[5].sin()


def test_what_is_kept_of_a_loop_is_stacked() -> None:
    gm = graph(recurrence, (SLICES, 8), (8,), device="cuda")
    (stack,) = stack_saved(gm.graph, "cuda")
    assert stack.meta["val"].shape == (SLICES, 8)
    outside = [n for n in gm.graph.nodes if n.target in (aten.exp.default, aten.cos.default, aten.sin.default)]
    assert [n.args[0].target for n in outside] == [aten.select.int, aten._to_copy.default, aten.select.int]
    same(gm, recurrence, (SLICES, 8), (8,))


def test_elsewhere_loops_stay_as_they_are() -> None:
    gm = graph(recurrence, (SLICES, 8), (8,))
    assert not stack_saved(gm.graph, "cpu")


def test_gradients_of_a_loop() -> None:
    def f(x: Tensor, state: Tensor) -> Tensor:
        rows = []
        for i in range(SLICES):
            state = torch.sigmoid(x[:, i]) * state + x[:, i]
            rows.append(state * state)
        return torch.stack(rows, 1).sum()

    def gradients(g: Callable[..., Tensor]) -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)
        inputs = [torch.randn(3, SLICES, 5, generator=generator), torch.randn(3, 5, generator=generator)]
        for t in inputs:
            t.requires_grad_()
        g(*inputs).backward()
        return [t.grad for t in inputs if t.grad is not None]

    torch.testing.assert_close(gradients(torch.compile(f, backend="akg")), gradients(f))
