"""Large tensors: slices against fp64, everything against eager, smaller relatives for what sizes do not change."""

from __future__ import annotations

import pytest
import torch

from akg_dynamo.agents.verifier import Judge, kernelbench, plan
from akg_dynamo.agents.verifier.job import Relative
from akg_dynamo.agents.verifier.numerics import furthest
from akg_dynamo.agents.verifier.shapes import elements
from akg_dynamo.agents.verifier.slices import slicing
from akg_dynamo.core.types import Outcome, Ref, Subgraph, TensorSpec, Trick
from akg_dynamo.fusion.reference import reference
from akg_dynamo.fusion.task import read_task

from .kernels import add_relu, assert_wrong, candidate, contiguous, dynamic_softmax, job, op, single

N = 2_000_003
RIGHT = "return (torch.relu(args[0] + args[1]),)"


def centred(rows: int, columns: int) -> Subgraph:
    """x - x.mean(0): no row of it can be computed without the others."""
    x, mean = contiguous("float32", rows, columns), contiguous("float32", 1, columns)
    nodes = (op("aten.mean.dim", mean, Ref(0), (0,), True), op("aten.sub.Tensor", x, Ref(0), Ref(1)))
    return Subgraph((x,), (), nodes, (2,))


def transposed(n: int) -> Subgraph:
    across, along = TensorSpec("float32", (n, n), (1, n)), contiguous("float32", n, n)
    return Subgraph((across, along), (), (op("aten.add.Tensor", across, Ref(0), Ref(1)),), (2,))


def test_a_large_case_is_compared_with_eager_everywhere_and_with_fp64_in_slices(judge: Judge) -> None:
    assert elements(add_relu(N), {}) > plan.SAMPLED_ELEMENTS
    (verdict,) = judge.judge([job(add_relu(N), RIGHT)])
    assert verdict.outcome is Outcome.RIGHT, verdict.detail
    assert any("in full size (all of it against eager, " in c and "slices of" in c for c in verdict.checked)


WRONG = {
    "an element": (add_relu(N), "x = torch.relu(args[0] + args[1]); x[1234567] += 0.001; return (x,)", "1234567"),
    "the last one": (add_relu(N), "x = torch.relu(args[0] + args[1]); x[-1] += 0.001; return (x,)", ""),
    "NaN": (add_relu(N), "return (torch.relu(args[0] + args[1]).nan_to_num(0.0),)", "nan"),
    "all a little": (add_relu(N), "return (torch.relu(args[0] + args[1]) * 1.000001,)", "largest error"),
    "from call to call": (
        add_relu(N),
        "x = torch.relu(args[0] + args[1]); x[7] = torch.rand(()); return (x,)",
        "again",
    ),
    "an integer": (
        single("aten.gt.Tensor", contiguous("bool", N), contiguous("float32", N), contiguous("float32", N)),
        "y = args[0] > args[1]; y[765432] ^= True; return (y,)",
        "765432",
    ),
    "what no slice can tell": (centred(3001, 1001), "return (args[0] - args[0][:-1].mean(0, keepdim=True),)", ""),
    "a corner of a transposed output": (
        transposed(1501),
        "y = args[0] + args[1]; y[1500, 3] += 0.01; return (y,)",
        "[1500, 3]",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_large_case_that_is_wrong_somewhere(judge: Judge, name: str) -> None:
    sub, body, reason = WRONG[name]
    assert_wrong(judge, sub, body, reason)


def test_what_rows_share_is_judged_as_a_whole(judge: Judge) -> None:
    (verdict,) = judge.judge([job(centred(3001, 1001), "return (args[0] - args[0].mean(0, keepdim=True),)")])
    assert verdict.outcome is Outcome.RIGHT, verdict.detail
    assert "in full size (all of it against fp64)" in verdict.checked[0]


@pytest.mark.parametrize("sub", [add_relu(N), transposed(1501), centred(3001, 1001)], ids=["rows", "turned", "shared"])
def test_slices_are_what_eager_computes_alone(sub: Subgraph) -> None:
    storages = [torch.randn(torch.Size(s.shape).numel()) for s in sub.inputs]  # type: ignore[arg-type]
    views = [t.as_strided(s.shape, s.stride) for t, s in zip(storages, sub.inputs, strict=True)]  # type: ignore[arg-type]
    eager = reference(sub)(*views)
    cut = slicing(sub, "bounded", {}, views, eager)
    if sub == centred(3001, 1001):
        assert cut is None
        return
    assert cut is not None
    start = cut.extent // 3
    (alone,) = cut.truth.eager(cut.inputs(views, start), cut.sizes)
    torch.testing.assert_close(alone, cut.outputs(eager, start)[0])


def test_the_place_where_two_differ_most() -> None:
    eager = torch.randn(301, 257).t()
    kernel = eager.clone()
    kernel[3, 299] += 0.5
    kernel[200, 1] -= 0.25
    assert furthest(kernel, eager) == [3, 299]
    kernel[100, 100] = float("nan")
    assert furthest(kernel, eager) == [100, 100]
    both = torch.full((5,), float("inf"))
    assert furthest(both, both.clone()) == [0]


def test_relatives_stand_for_it_on_inputs_of_every_kind(judge: Judge) -> None:
    small = add_relu(5003)

    def judged(body: str, of_small: str) -> tuple[Outcome, str, tuple[str, ...]]:
        with_relative = job(add_relu(N), body, relatives=(Relative(small, candidate(of_small)),))
        (verdict,) = judge.judge([with_relative])
        return verdict.outcome, verdict.detail, verdict.checked

    outcome, detail, checked = judged(RIGHT, RIGHT)
    assert outcome is Outcome.RIGHT, detail
    assert checked[0].startswith("normal x1, nan x1 misaligned, ")
    assert "by the same code on smaller tensors (float32[5003], float32[5003], …)" in checked[0]
    assert checked[1].startswith("normal x1 in full size")
    assert len(checked) == 2
    no_nan = "return (torch.relu(args[0] + args[1]).nan_to_num(0.0),)"
    assert judged(RIGHT, no_nan)[0] is Outcome.WRONG
    assert judged("return (torch.relu(args[0] + args[1]).roll(1),)", RIGHT)[0] is Outcome.WRONG


def test_a_large_member_of_a_class_is_judged_once() -> None:
    sub = dynamic_softmax()
    small = plan.groups(sub, 0)
    assert not any(g.sampled for g in small)
    rows, columns = sub.symbols
    large = Subgraph(sub.inputs, (type(rows)("s0", 2, None, 20_000), columns), sub.nodes, sub.outputs)
    groups = plan.groups(large, 0)
    assert [g.kind for g in groups if g.sizes == groups[0].sizes] == ["normal"]
    assert groups[0].sampled
    kinds = {g.kind for g in groups if elements(large, g.sizes) <= plan.RELATIVE_ELEMENTS}
    assert kinds == {"normal", "nan", "dyadic", "inf", "wide", "offset"}


def test_what_judging_takes_is_counted() -> None:
    sub = add_relu(1 << 20)
    inputs, output = 8 << 20, 4 << 20
    # the sum and its relu at once
    assert plan.working_bytes(sub, {}, with_oracle=False) == 2 * inputs + 3 * output + 2 * output
    assert plan.working_bytes(sub, {}, with_oracle=True) == 2 * inputs + 4 * output + 2 * inputs + 2 * (8 << 20)
    assert plan.groups(sub, 0, plan.Means(1 << 40, limit_bytes=1 << 20)) == []


# ---------------------------------------------------------------------------------------------------------------------
# More than eager has room for


MIB = 1 << 20
ROWS, COLUMNS = 20_011, 64


def chain() -> Subgraph:
    """Four functions of x that all live until they are added: eager holds many times what comes in and goes out."""
    x = contiguous("float32", ROWS, COLUMNS)
    parts = [op(f"aten.{name}.default", x, Ref(0)) for name in ("sin", "cos", "tanh", "relu", "neg", "abs")]
    sums = [op("aten.add.Tensor", x, Ref(1), Ref(2))]
    sums += [op("aten.add.Tensor", x, Ref(6 + i), Ref(2 + i)) for i in range(1, 5)]
    return Subgraph((x,), (), (*parts, *sums), (11,))


CHAIN = "x = args[0]; return ((((((x.sin() + x.cos()) + x.tanh()) + x.relu()) + x.neg()) + x.abs()),)"
ROOM = 30 * MIB
"""Enough for the kernel's inputs and outputs (4.9 MiB each) and for slices, not for eager."""


def test_what_has_no_room_for_eager_is_planned_in_slices() -> None:
    sub = chain()
    given = plan.means(sub, "cpu", ROOM)
    assert plan.working_bytes(sub, {}, with_oracle=False) > ROOM
    assert plan.traced(sub, 0, given) is None
    (group,) = plan.groups(sub, 0, given)
    assert group.pieces
    assert plan.groups(sub, 0, plan.means(sub, "cpu", 12 * MIB)) == []
    assert plan.means(sub, "cpu").limit_bytes == pytest.approx(plan.free_bytes() // 4, rel=0.2)


def test_a_task_without_room_for_eager_is_judged_in_slices(judge: Judge) -> None:
    (verdict,) = judge.judge([job(chain(), CHAIN, memory_bytes=ROOM)])
    assert verdict.outcome is Outcome.RIGHT, verdict.detail
    assert "of 65 slices of 312 of its 20011 rows against eager and fp64" in verdict.checked[0]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (CHAIN.replace("x.neg()", "x.neg().mul_(1.00001)"), "largest error"),
        (CHAIN.replace("return (", "y = (").replace(",)", ")") + "; y[-1, 5] += 1; return (y,)", "[20010, 5]"),
        (CHAIN.replace("return (", "y = (").replace(",)", ")") + "; y[9999, 7] += 1; return (y,)", "[9999, 7]"),
        (
            CHAIN.replace("return (", "y = (").replace(",)", ")") + "; args[0][3, 3] = 0; return (y,)",
            "wrote into input",
        ),
    ],
)
def test_what_is_wrong_in_some_slice_is_found(judge: Judge, body: str, reason: str) -> None:
    (verdict,) = judge.judge([job(chain(), body, memory_bytes=ROOM)])
    assert verdict.outcome is Outcome.WRONG, verdict
    assert reason in verdict.detail


def test_what_rows_share_cannot_be_judged_in_slices(judge: Judge) -> None:
    x, mean = contiguous("float32", ROWS, COLUMNS), contiguous("float32", 1, COLUMNS)
    nodes = [op("aten.sin.default", x, Ref(0)), op("aten.cos.default", x, Ref(0)), op("aten.tanh.default", x, Ref(0))]
    nodes += [op("aten.mean.dim", mean, Ref(1), (0,), True), op("aten.sub.Tensor", x, Ref(2), Ref(4))]
    sub = Subgraph((x,), (), (*nodes, op("aten.add.Tensor", x, Ref(5), Ref(3))), (6,))
    (verdict,) = judge.judge([job(sub, "raise ValueError", memory_bytes=30 * MIB)])
    assert verdict.outcome is Outcome.NOT_JUDGED
    assert "too big to be judged as a whole" in verdict.detail


def test_a_class_is_judged_at_smaller_sizes_and_in_slices_at_the_traced_ones(judge: Judge) -> None:
    rows, columns = dynamic_softmax().symbols
    symbols = (type(rows)("s0", 2, None, 60_000), type(columns)("s1", 2, 4096, 50))
    sub = Subgraph(dynamic_softmax().inputs, symbols, dynamic_softmax().nodes, (1,))
    (verdict,) = judge.judge([job(sub, "return (torch.softmax(args[0], -1),)", memory_bytes=64 * MIB)])
    assert verdict.outcome is Outcome.RIGHT, verdict.detail
    assert "at s0=60000,s1=50" in verdict.checked[-1]
    assert "slices of 937 of its 60000 rows against eager" in verdict.checked[-1]
    assert any("s0=2," in text for text in verdict.checked)
    wrong = "y = torch.softmax(args[0], -1); y[50_000:] *= 1.01; return (y,)"
    (verdict,) = judge.judge([job(sub, wrong, memory_bytes=64 * MIB)])
    assert verdict.outcome is Outcome.WRONG


def test_trusted_kernels_are_timed_where_eager_alone_has_room(judge: Judge) -> None:
    given = plan.means(chain(), "cpu", ROOM)
    assert plan.timed(chain(), 0, given, trusted=False) is None
    assert plan.timed(chain(), 0, plan.means(chain(), "cpu", 55 * MIB), trusted=True) == {}
    (verdict,) = judge.judge([job(chain(), CHAIN, memory_bytes=ROOM, want_timing=True, trusted=False)])
    assert verdict.outcome is Outcome.RIGHT, verdict.detail
    assert verdict.timing is None
    assert any("its speed: too big" in text for text in verdict.unjudged)


def test_a_kernel_that_nobody_trusts_is_judged_so_too_and_what_is_not_is_said(judge: Judge) -> None:
    body = "        return x.sin() + x.cos() + x.tanh() + x.relu() + x.neg() + x.abs()\n"
    source = "import torch\nclass Model(torch.nn.Module):\n    def forward(self, x):\n" + body
    task = read_task(f"{source}def get_inputs():\n    return [torch.randn({ROWS}, {COLUMNS})]\n")
    new = source.replace("class Model(", "class ModelNew(")
    asked = kernelbench.job(task, new, dsl="torch", memory_bytes=ROOM, want_timing=True)
    wrong = kernelbench.job(task, new.replace("x.neg()", "x"), dsl="torch", memory_bytes=ROOM)
    right, refused = judge.judge([asked, wrong])
    assert right.outcome is Outcome.RIGHT, right.detail
    assert "slices of 312 of its 20011 rows" in right.checked[0]
    assert any("too large for the memory that is free" in text for text in right.unjudged)
    assert refused.outcome is Outcome.WRONG


ROWS_OF_SUMS = """
import torch, triton
import triton.language as tl
@triton.jit
def mix(x, out, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    j = tl.arange(0, BLOCK)
    v = tl.load(x + row * columns + j, mask=j < columns)
    tl.store(out + row * columns + j, tl.sin(v) + tl.cos(v) + tl.abs(v) + tl.maximum(v, 0.0), mask=j < columns)
class ModelNew(torch.nn.Module):
    def forward(self, x):
        out = torch.empty_like(x)
        mix[(x.shape[0],)](x, out, x.shape[1], BLOCK=triton.next_power_of_2(x.shape[1]))
        return out
"""
LACKS_MEMORY = ROWS_OF_SUMS.replace("empty_like(x)", "full_like(x, 7.5)").replace(
    "        return out", "        if float(out[0, 0]) == 7.5:\n            raise MemoryError('no')\n        return out"
)
BY_TORCH = ROWS_OF_SUMS.replace("return out", "return x.sin() + x.cos() + x.abs() + x.relu()")


def test_what_has_no_room_for_eager_is_watched(judge: Judge) -> None:
    model = "import torch\nclass Model(torch.nn.Module):\n    def forward(self, x):\n"
    model += "        return x.sin() + x.cos() + x.abs() + x.relu()\n"
    task = read_task(f"{model}def get_inputs():\n    return [torch.randn(64, 6000)]\n")
    room = 9 << 20  # a matrix of this size takes 1.5 MiB
    running = frozenset({"running"})
    jobs = [
        kernelbench.job(task, source, dsl="triton", memory_bytes=room, screens=running)
        for source in (ROWS_OF_SUMS, BY_TORCH, LACKS_MEMORY)
    ]
    right, decoy, unseen = judge.judge(jobs)
    assert right.outcome is Outcome.RIGHT, right.detail
    assert "slices of 1 of its 64 rows" in right.checked[0]
    assert {"without its kernels it is wrong", "all of its arithmetic is in its kernels"} <= set(right.checked)
    assert not any("without its kernels" in text for text in right.unjudged)
    assert decoy.outcome is Outcome.REJECTED
    assert decoy.tricks == (Trick.DECOY, Trick.CALLS_TORCH)
    assert "right when its kernels do nothing" in decoy.detail
    assert unseen.outcome is Outcome.RIGHT, unseen.detail
    assert "calls without its kernels: MemoryError: no" in unseen.unjudged
