"""A ModelNew on a CUDA device beyond its task's inputs: layouts, sizes, gradients, and more than eager has room for.

pytest -m gpu tests/gpu/test_drop_in_cuda.py
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from akg_dynamo.agents.verifier import Judge, kernelbench, shut_down
from akg_dynamo.core.types import Outcome, Trick, Verdict
from akg_dynamo.fusion.task import Task, read_task

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.timeout(120),
]

SOFTMAX = """
import torch
import triton
import triton.language as tl


@triton.jit
def softmax(x, out, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    j = tl.arange(0, BLOCK)
    values = tl.load(x + row * columns + j, mask=j < columns, other=-float("inf"))
    powers = tl.exp(values - tl.max(values, 0))
    tl.store(out + row * columns + j, powers / tl.sum(powers, 0), mask=j < columns)


class ModelNew(torch.nn.Module):
    def forward(self, x):
        x = x.contiguous()
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        block = triton.next_power_of_2(max(x.shape[1], 1))
        softmax[(x.shape[0],)](x, out, x.shape[1], BLOCK=block)
        return out
"""
GELU = (Path(__file__).parents[1] / "attacks" / "controls" / "triton_backward.py").read_text()


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with Judge() as one:
        one.warm("cuda")
        yield one
    shut_down()


def task(forward: str, inputs: str) -> Task:
    read = read_task(
        f"import torch\nclass Model(torch.nn.Module):\n    def forward(self, x):\n        {forward}\n{inputs}"
    )
    return replace(read, cases=tuple(tuple(t.to("cuda") for t in case) for case in read.cases))


@cache
def several() -> Task:
    return task(
        "return torch.softmax(x, -1)",
        "def get_inputs_dyn_list():\n    return [[torch.randn(m, n)] for m, n in ((16, 96), (3, 300), (33, 64))]\n",
    )


@cache
def trained() -> Task:
    return task(
        "return x * torch.sigmoid(1.702 * x)",
        "def get_inputs():\n    return [torch.randn(300, 257, requires_grad=True)]\n",
    )


def judged(judge: Judge, t: Task, source: str, **options: Any) -> Verdict:
    return judge.judge([kernelbench.job(t, source, dsl="triton", **options)])[0]


def test_right_in_every_layout_and_at_sizes_0_and_1(judge: Judge) -> None:
    found = judged(judge, several(), SOFTMAX)
    assert found.outcome is Outcome.RIGHT, found.detail
    said = "; ".join(found.checked)
    for text in ("transposed", "stride 0", "overlapping windows", "s0=0,", "s0=1,s1=1 ", "s0=1,s1=1031"):
        assert text in said, text
    assert found.refuses == ()


def test_rows_that_need_not_follow_one_another(judge: Judge) -> None:
    found = judged(judge, several(), SOFTMAX.replace("        x = x.contiguous()\n", ""))
    assert found.outcome is Outcome.WRONG
    assert Trick.SHAPE in found.tricks


def test_a_layout_that_is_refused_is_named(judge: Judge) -> None:
    found = judged(judge, several(), SOFTMAX.replace("x = x.contiguous()", "assert x.is_contiguous()"))
    assert found.outcome is Outcome.RIGHT, found.detail
    assert len(found.refuses) >= 3


def test_gradients_are_right(judge: Judge) -> None:
    found = judged(judge, trained(), GELU)
    assert found.outcome is Outcome.RIGHT, found.detail
    assert any(text.startswith("gradients: given") for text in found.checked)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("tl.load(above + i, mask=i < n) * (s", "(s"),
        ("(1 - s)), mask", "(1 - s)) * 0.999, mask"),
        ("return Gelu.apply(x)", "return Gelu.apply(x).detach()"),
    ],
    ids=["of a sum", "scaled", "detached"],
)
def test_gradients_are_wrong(judge: Judge, old: str, new: str) -> None:
    assert old in GELU
    found = judged(judge, trained(), GELU.replace(old, new))
    assert found.outcome is Outcome.WRONG, found
    assert found.tricks[0] is Trick.GRADIENTS


@cache
def large() -> Task:
    return task(
        "return torch.softmax(x.sin() + x.cos() + x.tanh() + x.relu() + x.abs(), -1)",
        "def get_inputs():\n    return [torch.randn(60_000, 64)]\n",
    )


IN_ONE = SOFTMAX.replace(
    "    powers = tl.exp(values",
    "    t = 1 - 2 / (tl.exp(2 * values) + 1)\n"
    "    mixed = tl.sin(values) + tl.cos(values) + t + tl.maximum(values, 0.0) + tl.abs(values)\n"
    "    values = tl.where(j < columns, mixed, -float('inf'))\n"
    "    powers = tl.exp(values",
).replace('other=-float("inf")', "other=0.0")


def test_without_room_for_eager_it_is_judged_in_slices(judge: Judge) -> None:
    room = 80 << 20
    found = judged(judge, large(), IN_ONE, memory_bytes=room)
    assert found.outcome is Outcome.RIGHT, found.detail
    assert "slices of 937 of its 60000 rows" in found.checked[0]
    wrong = IN_ONE.replace("tl.sum(powers, 0)", "(tl.sum(powers, 0) * tl.where(row == 31_234, 1.001, 1.0))")
    found = judged(judge, large(), wrong, memory_bytes=room)
    assert found.outcome is Outcome.WRONG
    assert "[31234, " in found.detail
