"""The floor under claims: what must be moved and computed, and that no honest call is faster."""

from __future__ import annotations

import time

import pytest
import torch

from akg_dynamo.agents.profiler.roofline import HostCeiling, Work, work
from akg_dynamo.core.types import Arg, Dim, OpNode, Ref, Subgraph, Symbol, TensorSpec


def spec(dtype: str, *shape: Dim, stride: tuple[Dim, ...] | None = None) -> TensorSpec:
    if stride is None:
        step, found = 1, []
        for d in reversed(shape):
            found.insert(0, step)
            step *= d if isinstance(d, int) else 1
        stride = tuple(found)
    return TensorSpec(dtype, shape, stride)


def graph(inputs: list[TensorSpec], *nodes: tuple[str, TensorSpec, tuple[Arg, ...]]) -> Subgraph:
    made = tuple(OpNode(target, args, (), out) for target, out, args in nodes)
    return Subgraph(tuple(inputs), (), made, (len(inputs) + len(nodes) - 1,))


F = spec("float32", 64, 256)
HALF = spec("bfloat16", 64, 256)


@pytest.mark.parametrize(
    ("sub", "n_bytes"),
    [
        (graph([F, F], ("aten.add.Tensor", F, (Ref(0), Ref(1)))), 3 * 65536),
        (graph([HALF], ("aten.relu.default", HALF, (Ref(0),))), 65536),
        (graph([F], ("aten.sum.dim_IntList", spec("float32", 64), (Ref(0), (1,)))), 65536 + 256),
        # A row that is repeated lies in memory once.
        (
            graph(
                [F, spec("float32", 64, 256, stride=(0, 1))],
                ("aten.add.Tensor", F, (Ref(0), Ref(1))),
            ),
            2 * 65536 + 1024,
        ),
        # Who takes a part of it, or chooses between two, need not read all.
        (graph([F], ("aten.slice.Tensor", spec("float32", 8, 256), (Ref(0), 0, 0, 8))), 8192),
        (graph([spec("bool", 64, 256), F, F], ("aten.where.self", F, (Ref(0), Ref(1), Ref(2)))), 65536),
        (
            graph(
                [F, F],
                ("aten.add.Tensor", F, (Ref(0), Ref(1))),
                ("aten.select.int", spec("float32", 256), (Ref(2), 0, 3)),
            ),
            1024,
        ),
        (graph([spec("float32", 50000, 64), spec("int64", 7)],
               ("aten.embedding.default", spec("float32", 7, 64), (Ref(0), Ref(1)))), 1792),
        (graph([F], ("aten.any.default", TensorSpec("bool", (), ()), (Ref(0),))), 1),
    ],
)  # fmt: skip
def test_bytes_that_must_move(sub: Subgraph, n_bytes: int) -> None:
    assert work(sub, {}).n_bytes == n_bytes


def test_bytes_of_a_member_of_a_class() -> None:
    s = spec("float32", "s0", 256, stride=(256, 1))
    sub = Subgraph((s,), (Symbol("s0", 2, None, 12),), (OpNode("aten.relu.default", (Ref(0),), (), s),), (1,))
    assert work(sub, {"s0": 10}).n_bytes == 20480


def test_operations_are_those_of_products_that_are_seen() -> None:
    a, b, out = spec("float32", 32, 128), spec("float32", 128, 64), spec("float32", 32, 64)
    product = ("aten.mm.default", out, (Ref(0), Ref(1)))
    assert work(graph([a, b], product), {}).operations == 2 * 32 * 128 * 64
    assert work(graph([a, b], product, ("aten.relu.default", out, (Ref(2),))), {}).operations == 2 * 32 * 128 * 64
    # A sum of a product is a product of sums.
    total = ("aten.sum.dim_IntList", spec("float32", 32), (Ref(2), (1,)))
    assert work(graph([a, b], product, total), {}).operations == 0


@pytest.mark.parametrize("n_bytes", [1 << 12, 1 << 16, 1 << 20, 1 << 25])
def test_no_call_is_faster_than_the_floor(n_bytes: int) -> None:
    a, b = torch.ones(n_bytes, dtype=torch.uint8), torch.ones(n_bytes, dtype=torch.uint8)
    times = max(1, (1 << 22) // n_bytes)
    best = float("inf")
    for _ in range(10):
        start = time.perf_counter()
        for _ in range(times):
            a.copy_(b)
        best = min(best, (time.perf_counter() - start) / times)
    least_us, why = HostCeiling().least_us(Work(2 * n_bytes, 0), 2 * n_bytes)
    assert 0 < least_us < best * 1e6
    assert str(2 * n_bytes) in why


def test_no_product_is_faster_than_the_floor() -> None:
    a = torch.rand(512, 512)
    best = float("inf")
    for _ in range(10):
        start = time.perf_counter()
        torch.mm(a, a)
        best = min(best, time.perf_counter() - start)
    least_us, why = HostCeiling().least_us(Work(3 << 20, 2 * 512**3), 3 << 20)
    assert 0 < least_us < best * 1e6
    assert "operations" in why


def test_the_floor_is_not_far_below_what_a_call_takes() -> None:
    """It means something: a claim of a fiftieth of what a copy takes is never accepted."""
    n_bytes = 64 << 20
    a, b = torch.ones(n_bytes, dtype=torch.uint8), torch.ones(n_bytes, dtype=torch.uint8)
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        a.copy_(b)
        best = min(best, time.perf_counter() - start)
    assert HostCeiling().least_us(Work(2 * n_bytes, 0), 2 * n_bytes)[0] > 0.02 * best * 1e6
