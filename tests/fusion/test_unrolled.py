"""Loops that tracing has unrolled, found again in graphs of a CUDA device, traced without one.

Elements are selected by name: indexing needs the device.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from test_devices import graph, planned
from torch import Tensor

from akg_dynamo.core.types import SplitReasonType
from akg_dynamo.fusion.ops import OpKind, classify
from akg_dynamo.fusion.reference import reference
from akg_dynamo.fusion.unrolled import Before, Counted, find_loop, unrolled_loops

TRIPS = 6


def scan(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """A state space model's recurrence: the state is read by a product with one column."""
    decay, fed = torch.exp(a), b * 2
    state = a.new_zeros(2, 8, 4)
    rows = []
    for i in range(TRIPS):
        state = decay.select(2, i) * state + fed.select(2, i)
        rows.append(torch.matmul(state, c.select(1, i).unsqueeze(-1)).select(2, 0))
    return torch.stack(rows, -1)


SHAPES = ((2, 8, TRIPS, 4), (2, 8, TRIPS, 4), (2, TRIPS, 4))


def test_a_loop_is_one_subgraph_with_what_only_it_reads() -> None:
    found, (sub,) = planned(scan, *SHAPES)
    kept = [n for n in found.reasons if n.op == "call_function"]
    assert not kept, "the views that the loop reads are computed in it"
    assert [spec.shape for spec in sub.inputs] == [*SHAPES]
    assert len(sub.outputs) == 1


def test_slices_of_what_another_kernel_computes_are_views_of_the_loop() -> None:
    def f(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        fed = torch.softmax(b, -1)
        return scan(a, fed, c), fed

    found, (_, sub) = planned(f, *SHAPES)
    kept = [n for n in found.reasons if n.op == "call_function"]
    assert not kept
    assert sorted(spec.shape for spec in sub.inputs) == sorted(SHAPES)


def test_what_a_trip_reads() -> None:
    _, (sub,) = planned(scan, *SHAPES)
    loop = find_loop([None] * len(sub.inputs) + list(sub.nodes))
    assert loop is not None
    assert loop.trips == TRIPS
    patterns = [p for chain in loop.chains for p in chain.args]
    assert Counted(0, 1) in patterns
    carried = [c for c in loop.chains if c.initial is not None]
    assert len(carried) == 1
    assert Before(loop.chains.index(carried[0])) in patterns


def count_down(x: Tensor) -> Tensor:
    state, rows = torch.zeros_like(x.select(0, 0)), []
    for i in reversed(range(TRIPS)):
        state = state * 0.5 + x.select(0, i)
        rows.append(state)
    return torch.stack(rows)


def test_indices_may_count_down() -> None:
    gm = graph(count_down, (TRIPS, 64))
    (nodes,) = unrolled_loops(gm.graph, "cuda")
    assert len(nodes) == 3 * TRIPS + 1


def independent(x: Tensor) -> Tensor:
    return torch.stack([x.select(0, i).exp() for i in range(TRIPS)])


def changing(x: Tensor) -> Tensor:
    state, rows = torch.zeros_like(x.select(0, 0)), []
    for i in range(TRIPS):
        state = (state + x.select(0, i)) if i % 2 else (state * x.select(0, i))
        rows.append(state)
    return torch.stack(rows)


def irregular(x: Tensor) -> Tensor:
    state, rows = torch.zeros_like(x.select(0, 0)), []
    for i in (0, 2, 3, 5):
        state = state * 0.5 + x.select(0, i)
        rows.append(state)
    return torch.stack(rows)


def read_on_the_way(x: Tensor) -> tuple[Tensor, Tensor]:
    state, states = torch.zeros_like(x.select(0, 0)), []
    for i in range(TRIPS):
        state = state * 0.5 + x.select(0, i)
        states.append(state)
    return torch.stack([s * 2 for s in states]), torch.mm(states[2], states[2])


def through_a_product(x: Tensor) -> Tensor:
    state, rows = torch.zeros_like(x.select(0, 0)), []
    for i in range(TRIPS):
        state = torch.tanh(state @ x.select(0, i))
        rows.append(state)
    return torch.stack(rows)


@pytest.mark.parametrize("f", [independent, changing, irregular, read_on_the_way, through_a_product])
def test_what_is_no_loop_for_a_kernel(f: Callable[[Tensor], object]) -> None:
    assert not unrolled_loops(graph(f, (TRIPS, 16, 16)).graph, "cuda")


def test_the_last_value_carried_may_be_read() -> None:
    def f(x: Tensor) -> tuple[Tensor, Tensor]:
        state, rows = x.new_zeros(16, 16), []
        for i in range(TRIPS):
            state = state * 0.5 + x.select(0, i)
            rows.append(state * 2)
        return torch.stack(rows), torch.mm(state, state)

    found, (sub,) = planned(f, (TRIPS, 16, 16))
    assert len(sub.outputs) == 2
    assert [r.kind for n, r in found.reasons.items() if n.op == "call_function"] == [SplitReasonType.MATMUL]


def test_what_follows_stays_outside() -> None:
    _, subs = planned(lambda a, b, c: torch.relu(scan(a, b, c)) * 2, *SHAPES)
    assert [len(s.nodes) > TRIPS for s in subs] == [True, False]


def kind_of_product(f: Callable[..., object], *shapes: tuple[int, ...], device: str = "cuda") -> OpKind:
    gm = graph(f, *shapes, device=device)
    return next(
        classify(n) for n in gm.graph.nodes if n.target in (torch.ops.aten.bmm.default, torch.ops.aten.mm.default)
    )


def test_a_product_of_computed_values_and_one_column_is_a_sum() -> None:
    def column(x: Tensor, y: Tensor) -> Tensor:
        return torch.bmm(x.exp(), y)

    def row(x: Tensor, y: Tensor) -> Tensor:
        return torch.mm(y, x.exp().t())

    assert kind_of_product(column, (2, 8, 16), (2, 16, 1)) is OpKind.REDUCTION
    assert kind_of_product(row, (8, 16), (1, 16)) is OpKind.REDUCTION
    assert kind_of_product(column, (2, 8, 16), (2, 16, 1), device="cpu") is OpKind.MATMUL, "not measured there"
    assert kind_of_product(column, (2, 8, 16), (2, 16, 2)) is OpKind.MATMUL, "two columns"
    assert kind_of_product(column, (2, 8, 512), (2, 512, 1)) is OpKind.MATMUL, "many terms"
    assert kind_of_product(torch.bmm, (2, 8, 16), (2, 16, 1)) is OpKind.MATMUL, "the values are in memory"


def test_a_product_with_one_column_joins_what_computes_its_values() -> None:
    _, (sub,) = planned(lambda x, y: torch.bmm(x.exp(), y) * 2, (2, 64, 16), (2, 16, 1))
    assert [n.target for n in sub.nodes] == ["aten.exp.default", "aten.bmm.default", "aten.mul.Tensor"]
    assert reference(sub)(torch.zeros(2, 64, 16), torch.ones(2, 16, 1))[0].eq(32).all()
