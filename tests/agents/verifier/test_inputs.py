"""Which inputs are drawn: positions in range, layouts spanned, sizes at their boundaries, jumps found."""

from __future__ import annotations

import random

import pytest
import torch

from akg_dynamo.agents.verifier import plan, shapes
from akg_dynamo.agents.verifier.evaluate import jumps, variants
from akg_dynamo.agents.verifier.inputs import ADVERSARIAL, KINDS, Drawer, Range, positions
from akg_dynamo.core.types import OpNode, Ref, Subgraph, Symbol, TensorSpec

from .kernels import contiguous, dynamic_softmax, op, row_sum, single


def test_positions_are_found_through_other_operators() -> None:
    index, table = contiguous("int64", 7), contiguous("float32", 50, 8)
    nodes = (
        op("aten.where.self", index, Ref(2), Ref(0), Ref(0)),
        op("aten.embedding.default", contiguous("float32", 7, 8), Ref(1), Ref(3)),
    )
    sub = Subgraph((index, table, contiguous("bool", 7)), (), nodes, (4,))
    assert positions(sub, {}) == {0: Range(0, 50)}


def test_negative_positions_only_where_torch_takes_them() -> None:
    table, index = contiguous("float32", 50, 8), contiguous("int64", 7)
    out = contiguous("float32", 7, 8)
    sub = Subgraph((table, index), (), (op("aten.index.Tensor", out, Ref(0), (Ref(1),)),), (2,))
    assert positions(sub, {}) == {1: Range(-50, 50)}


def test_every_kind_of_every_dtype_can_be_drawn_and_follows_from_the_seed() -> None:
    drawer = Drawer()
    floats = ("float32", "float16", "bfloat16", "float64", "float8_e4m3fn", "float8_e5m2", "complex64", "complex128")
    for dtype in (*floats, "int8", "uint8", "uint16", "int64", "bool"):
        for kind in KINDS:
            spec = TensorSpec(dtype, (5, 7), (1, 8))
            a, b = (drawer.draw(spec, {}, kind, random.Random(3), None) for _ in range(2))
            assert a.numel() == 1 + 4 + 6 * 8
            assert str(a.dtype) == f"torch.{dtype}"
            assert torch.equal(a.view(torch.uint8), b.view(torch.uint8))


def _drawn(kind: str, dtype: str, *shape: int) -> torch.Tensor:
    return Drawer().draw(contiguous(dtype, *shape), {}, kind, random.Random(5), None).view(shape)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_adversarial_values_are_what_they_are_called(dtype: str) -> None:
    limits = torch.finfo(getattr(torch, dtype))
    small = _drawn("denormal", dtype, 4000).double().abs()
    assert float(small.max()) < limits.smallest_normal
    assert float((small > 0).double().mean()) > 0.5
    huge = _drawn("huge", dtype, 4000).double()
    assert limits.max ** (1 / 2) > float(huge.abs().max()) > limits.max ** (1 / 5)
    x = _drawn("sorted", dtype, 4000).double()
    assert bool((x[1:] >= x[:-1]).all())
    assert float(x[-1]) > 2 > -2 > float(x[0])
    assert len(_drawn("constant", dtype, 50, 60).unique()) == 1
    low = _drawn("low rank", dtype, 50, 60).double()
    values = torch.linalg.svdvals(low)
    assert float(values[1] / values[0]) < 50 * limits.eps
    assert len(low.unique()) > 100


def test_kernels_that_nobody_knows_are_tried_on_adversarial_values() -> None:
    kinds = {g.kind for g in plan.groups(row_sum(32, 96), 0, adversarial=True)}
    assert kinds >= set(ADVERSARIAL)
    assert not {g.kind for g in plan.groups(row_sum(32, 96), 0)} & set(ADVERSARIAL)
    assert not {g.kind for g in plan.groups(row_sum(3200, 960), 0, adversarial=True)} & set(ADVERSARIAL)


def test_what_lies_between_the_elements_of_a_slice_is_poison() -> None:
    drawer = Drawer()
    for dtype, stride in (("float32", (1, 10)), ("float32", (64, 8)), ("int32", (10, 1)), ("bool", (30, 3))):
        flat = drawer.draw(TensorSpec(dtype, (5, 7), stride), {}, "positive", random.Random(3), Range(0, 9))
        inside = torch.zeros_like(flat, dtype=torch.bool)
        inside.as_strided((5, 7), stride)[:] = True
        bytes_of = flat.view(torch.uint8).view(len(flat), -1)
        assert bool((bytes_of[~inside] == 0xFF).all())
        assert len(flat) > 35
        kept = flat[inside]
        assert bool((kept > 0).all() if dtype == "float32" else (kept >= 0).all())
    for shape, stride in (((5, 7), (7, 1)), ((5, 7), (0, 1)), ((5, 7), (2, 1)), ((1, 7), (9, 1)), ((0, 7), (9, 1))):
        flat = drawer.draw(TensorSpec("float32", shape, stride), {}, "positive", random.Random(3), None)
        assert bool((flat > 0).all())


def test_large_tensors_are_filled_and_not_constant() -> None:
    flat = Drawer().draw(contiguous("float32", 3_000_000), {}, "normal", random.Random(0), None)
    assert flat.numel() == 3_000_000
    assert 0.9 < float(flat[2_500_000:].std()) < 1.1


def test_members_of_a_shape_class_have_its_ends_and_stay_inside() -> None:
    sub = dynamic_softmax()
    found = shapes.members(sub, 1 << 24, 0)
    assert found[0] == {"s0": 12, "s1": 200}
    assert any(m["s1"] == 4096 for m in found)
    assert any(m["s1"] == 3 for m in found)
    assert all(m["s0"] >= 2 and 2 <= m["s1"] <= 4096 for m in found)


def test_a_dim_that_is_a_difference_is_never_negative() -> None:
    head, tail = contiguous("float32", "s0", 8), contiguous("float32", "s1 - s0", 8)
    out = contiguous("float32", 8)
    nodes = (
        op("aten.sum.dim_IntList", out, Ref(0), (0,)),
        op("aten.sum.dim_IntList", out, Ref(1), (0,)),
        op("aten.add.Tensor", out, Ref(2), Ref(3)),
    )
    sub = Subgraph((head, tail), (Symbol("s0", 0, None, 3), Symbol("s1", 2, None, 20)), nodes, (4,))
    for seed in range(20):
        found = shapes.members(sub, 1 << 24, seed)
        assert found[0] == {"s0": 3, "s1": 20}
        assert len(found) > 2
        rng = random.Random(seed)
        assert all(m["s0"] <= m["s1"] for m in (*found, *shapes.near(sub, found[0], rng, 1 << 24)))


def test_a_task_too_big_is_judged_on_smaller_members() -> None:
    found = shapes.members(dynamic_softmax(), 1000, 0)
    assert found
    assert all(shapes.elements(dynamic_softmax(), m) <= 1000 for m in found)


def test_members_stay_few_and_small_so_that_a_judgement_stays_short() -> None:
    scores = contiguous("float32", "s0", 8, "s1", "s1")
    node = op("aten._softmax.default", scores, Ref(0), -1, False)
    sub = Subgraph((scores,), (Symbol("s0", 2, None, 2), Symbol("s1", 2, None, 64)), (node,), (1,))
    for seed in range(20):
        found = shapes.members(sub, 1 << 24, seed)
        assert len(found) <= 7
        assert all(shapes.elements(sub, m) <= 200_000 for m in found[1:])
        assert {"s0": 2, "s1": 2} in found
        assert {"s0": 3, "s1": 3} in found
        assert any(m["s1"] > 64 for m in found)
        assert any(m["s0"] == 1025 for m in found)


def test_a_class_whose_least_member_is_large_is_still_judged_at_its_lower_end() -> None:
    wide = contiguous("float32", "s0", 100_000)
    sub = Subgraph((wide,), (Symbol("s0", 2, None, 8),), (op("aten.neg.default", wide, Ref(0)),), (1,))
    found = shapes.members(sub, 1 << 24, 0)
    assert found[:3] == [{"s0": 8}, {"s0": 2}, {"s0": 3}]
    assert all(m["s0"] <= 8 for m in found)


def test_small_outputs_are_pooled_over_many_seeds() -> None:
    (first, *_) = plan.groups(row_sum(1, 1000), 0)
    assert first.seeds == plan.POOLED_SEEDS
    (first, *_) = plan.groups(row_sum(4096, 33), 0)
    assert first.seeds == 1


def test_jumps_count_only_after_a_rounding() -> None:
    s = contiguous("float32", 64)
    direct = single("aten.round.default", s, s)
    assert jumps(direct) == []
    computed = Subgraph((s,), (), (op("aten.exp.default", s, Ref(0)), op("aten.round.default", s, Ref(1))), (2,))
    assert jumps(computed) == [1]


def test_a_gradient_that_was_rounded_does_not_jump() -> None:
    """Only what decides whether it passes does: else all that comes of it would be undecided."""
    s = contiguous("float32", 64)
    passed = op("aten.threshold_backward.default", s, Ref(2), Ref(1), 0)
    exact = Subgraph((s, s), (), (op("aten.add.Tensor", s, Ref(0), Ref(0)), passed), (3,))
    assert jumps(exact) == []
    x, both = torch.randn(64), op("aten.exp.default", s, Ref(0))
    shifted = op("aten.sub.Tensor", s, Ref(1), 1.0)
    gated = op("aten.threshold_backward.default", s, Ref(1), Ref(2), 0)
    sub = Subgraph((s,), (), (both, shifted, gated), (3,))
    assert jumps(sub) == [2]
    x[0] = 1e-9
    still, moved = variants(sub, [x], {}, jumps(sub))
    undecided = torch.stack([m[0] != still[0] for m in moved]).any(0)
    assert undecided[0]
    assert not undecided[x.abs() > 0.01].any()


def test_a_near_tie_is_undecided_and_a_clear_maximum_is_not() -> None:
    """x + 0.1 rounds: two elements closer than that rounding may come out in either order."""
    s = contiguous("float32", 2, 3)
    argmax = OpNode("aten.argmax.default", (Ref(1), 1), (), contiguous("int64", 2))
    sub = Subgraph((s,), (), (op("aten.add.Tensor", s, Ref(0), 0.1), argmax), (2,))
    near = torch.tensor([[1.0, 1.0 + 2**-23, 0.3], [1.0, 5.0, 0.3]])
    still, moved = variants(sub, [near], {}, jumps(sub))
    undecided = torch.stack([m[0] != still[0] for m in moved]).any(0)
    assert undecided.tolist() == [True, False]
