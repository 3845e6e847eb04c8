"""A ModelNew beyond the inputs that its task gives: other layouts, sizes 0 and 1, and what is said where it is not."""

from __future__ import annotations

import random

import pytest
import torch

from akg_dynamo.agents.verifier import Judge, kernelbench
from akg_dynamo.agents.verifier.layouts import layouts
from akg_dynamo.core.types import Outcome, Trick, Verdict
from akg_dynamo.fusion.task import Task, read_task

from .kernels import contiguous


def task(forward: str, *, args: str = "x", inputs: str = "[torch.randn(6, 8)]", dyn: str = "") -> Task:
    given = f"def get_inputs_dyn_list():\n    return {dyn}\n" if dyn else f"def get_inputs():\n    return {inputs}\n"
    return read_task(
        f"import torch\n\nclass Model(torch.nn.Module):\n    def forward(self, {args}):\n        {forward}\n\n{given}"
    )


def judged(judge: Judge, t: Task, forward: str, *, args: str = "x") -> Verdict:
    """A ModelNew with that body; nothing is read or watched, so that only its values count."""
    source = f"import torch\nclass ModelNew(torch.nn.Module):\n    def forward(self, {args}):\n        {forward}\n"
    return judge.judge([kernelbench.job(t, source, dsl="torch", screens=frozenset())])[0]


RELU = task("return torch.relu(x) * 2")
ADD = task("return x * y", args="x, y", inputs="[torch.randn(6, 8), torch.randn(6, 8)]")
CLASS = "[[torch.randn(m, n)] for m, n in ((4, 8), (3, 5), (9, 2))]"
SEVERAL = task("return torch.softmax(x, -1)", dyn=CLASS)
SOFTMAX = "return torch.softmax(x, -1)"


def test_what_is_right_is_right_in_every_layout(judge: Judge) -> None:
    found = judged(judge, ADD, "return x * y", args="x, y")
    assert found.outcome is Outcome.RIGHT, found.detail
    said = "; ".join(found.checked)
    for layout in ("transposed", "every second element", "columns of a wider", "stride 0", "overlapping windows"):
        assert f"{layout}" in said
    assert not found.refuses


WRONG_LAYOUTS = {
    "counts on contiguous rows": (RELU, "return torch.relu(x.as_strided(x.shape, (8, 1))) * 2", "x"),
    "takes gaps for elements": (
        RELU,
        "return torch.relu(x.as_strided(x.shape, (x.stride(0), 1)).nan_to_num(1.0) if x.stride(1) == 2 else x) * 2",
        "x",
    ),
    "takes broadcast rows for different ones": (
        RELU,
        "return torch.relu(x if 0 not in x.stride() else torch.zeros(6, 8)) * 2",
        "x",
    ),
    "only the first input may be laid out otherwise": (
        ADD,
        "return x * (y if x.is_contiguous() == y.is_contiguous() else y.t().reshape(6, 8))",
        "x, y",
    ),
    "windows": (RELU, "return torch.relu(x if x.stride(0) != 4 else x + 1) * 2", "x"),
}


@pytest.mark.parametrize("name", WRONG_LAYOUTS)
def test_right_only_for_some_layouts(judge: Judge, name: str) -> None:
    t, forward, args = WRONG_LAYOUTS[name]
    found = judged(judge, t, forward, args=args)
    assert found.outcome is Outcome.WRONG, found
    assert Trick.SHAPE in found.tricks


def test_a_layout_that_is_refused_loudly_is_named_and_not_wrong(judge: Judge) -> None:
    found = judged(judge, RELU, "assert x.is_contiguous(), 'plain ones only'; return torch.relu(x) * 2")
    assert found.outcome is Outcome.RIGHT, found.detail
    assert len(found.refuses) >= 5
    assert all("plain ones only" in text for text in found.refuses)


def test_outputs_may_be_laid_out_in_their_own_way(judge: Judge) -> None:
    assert judged(judge, RELU, "return torch.relu(x.contiguous()) * 2").outcome is Outcome.RIGHT
    turned = "return torch.relu(x.t().contiguous().t() if not x.is_contiguous() else x) * 2"
    assert judged(judge, RELU, turned).outcome is Outcome.RIGHT


def test_layouts_that_model_refuses_are_not_judged(judge: Judge) -> None:
    found = judged(judge, task("return x.view(48) * 2"), "return x.reshape(48) * 2")
    assert found.outcome is Outcome.RIGHT, found.detail
    assert any("Model itself raises" in text and "transposed" in text for text in found.unjudged)


def test_sizes_0_and_1_and_long_ones_of_a_class(judge: Judge) -> None:
    found = judged(judge, SEVERAL, SOFTMAX)
    assert found.outcome is Outcome.RIGHT, found.detail
    said = "; ".join(found.checked)
    for sizes in ("s0=0,", "s0=1,s1=8", "s0=1,s1=1 ", "s0=1,s1=1031", "s0=1031,s1=1 ", "s1=0 ", "s0=4,s1=1 "):
        assert f"at {sizes}" in said or sizes in said, sizes
    assert not found.unjudged


WRONG_SIZES = {
    "one row": "return torch.softmax(x, -1) if x.shape[0] != 1 else x.clone()",
    "one column": "return torch.softmax(x, -1) if x.shape[1] != 1 else x.clone()",
    "raises for one row": "assert x.shape[0] > 1; return torch.softmax(x, -1)",
    "no row": "return torch.softmax(x, -1) if x.shape[0] else torch.zeros(1, x.shape[1])",
    "longer rows than a block": "return torch.softmax(x, -1) if x.shape[1] <= 1030 else torch.softmax(x[:, :1030], -1)",
    "beside its block": "BLOCK = 256; return torch.softmax(x, -1) if x.shape[1] != BLOCK + 1 else x.clone()",
}


@pytest.mark.parametrize("name", WRONG_SIZES)
def test_right_only_for_some_sizes(judge: Judge, name: str) -> None:
    found = judged(judge, SEVERAL, WRONG_SIZES[name])
    assert found.outcome is Outcome.WRONG, found
    assert Trick.SHAPE in found.tricks or "AssertionError" in found.detail


def test_an_empty_tensor_that_is_refused_loudly_is_named_and_not_wrong(judge: Judge) -> None:
    found = judged(judge, SEVERAL, "assert x.numel(), 'nothing to do'; return torch.softmax(x, -1)")
    assert found.outcome is Outcome.RIGHT, found.detail
    assert len(found.refuses) == 2
    assert all("nothing to do" in text for text in found.refuses)


def test_sizes_that_model_refuses_or_treats_otherwise_are_not_judged(judge: Judge) -> None:
    found = judged(judge, task("return x.argmax(1)", dyn=CLASS), "return x.argmax(1)")
    assert found.outcome is Outcome.RIGHT, found.detail
    assert any("s1=0" in text and "Model itself raises IndexError" in text for text in found.unjudged)
    other = task("return x + 1 if x.shape[0] == 1 else x * 2", dyn=CLASS)
    found = judged(judge, other, "return x + 1 if x.shape[0] == 1 else x * 2")
    assert found.outcome is Outcome.RIGHT, found.detail
    assert any("s0=1" in text and "something else there" in text for text in found.unjudged)


def test_a_task_of_one_size_is_a_contract_for_that_and_the_verdict_says_so(judge: Judge) -> None:
    found = judged(judge, RELU, "assert x.shape == (6, 8); return torch.relu(x) * 2")
    assert found.outcome is Outcome.RIGHT, found.detail
    assert any("other sizes: the task gives one set" in text for text in found.unjudged)


def test_layouts_hold_all_elements_and_are_what_they_are_called() -> None:
    specs = {0: contiguous("float32", 3, 4, 5, 7), 1: contiguous("float32", 9), 2: contiguous("float32")}
    found = layouts(specs, {}, random.Random(0))
    by_name = {each.name: each.strides for each in found[:6]}
    assert set(by_name) == {
        "transposed", "every second element", "columns of a wider tensor", "broadcast (stride 0)",
        "overlapping windows", "channels last",
    }  # fmt: skip
    shape = (3, 4, 5, 7)
    flat = torch.zeros(4000)
    assert flat.as_strided(shape, by_name["channels last"][0]).is_contiguous(memory_format=torch.channels_last)
    assert not flat.as_strided(shape, by_name["transposed"][0]).is_contiguous()
    assert by_name["every second element"] == {0: (280, 70, 14, 2), 1: (2,)}
    assert 0 in by_name["broadcast (stride 0)"][0]
    assert by_name["broadcast (stride 0)"][1] == (0,)
    assert by_name["columns of a wider tensor"][0][-2] % 2 == 0
    windows = by_name["overlapping windows"][0]
    assert windows[2] < 7
    assert all(2 not in each.strides for each in found)
    assert len(layouts(specs, {}, random.Random(0), most=1)) == 1
