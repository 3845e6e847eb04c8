"""Tasks with gradients: ModelNew's are judged as its values are, for what comes from above anew each time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from akg_dynamo.agents.verifier import Judge, kernelbench
from akg_dynamo.agents.verifier.kernelbench import trace
from akg_dynamo.core.errors import TaskError
from akg_dynamo.core.types import Outcome, Trick, Verdict
from akg_dynamo.fusion.reference import reference
from akg_dynamo.fusion.task import Task, read_task

MODEL = """
import torch

GRADIENTS = True

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(8, 5)
        self.norm = torch.nn.BatchNorm1d(5)
        self.register_buffer("scale", torch.arange(5.0) + 1, persistent=False)

    def forward(self, x, n):
        y = self.norm(self.linear(x)) * self.scale + torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
        return torch.nn.functional.relu(y, inplace=True), x.sum(1), torch.argmax(x, 1) + n

def get_inputs():
    return [torch.randn(6, 8, requires_grad=True), 3]
"""
TASK = read_task(MODEL)


def judged(judge: Judge, t: Task, source: str, **options: Any) -> Verdict:
    chosen: dict[str, Any] = {"dsl": "torch", "screens": frozenset(), **options}
    return judge.judge([kernelbench.job(t, source.partition("def get_i")[0], **chosen)])[0]


def new(*changes: tuple[str, str]) -> str:
    """Model under the name of ModelNew, with changes."""
    source = MODEL.replace("class Model(", "class ModelNew(")
    for old, other in changes:
        assert old in source
        source = source.replace(old, other)
    return source


def simple(forward: str, *, inputs: str = "[torch.randn(6, 8, requires_grad=True)]", init: str = "pass") -> Task:
    return read_task(
        "import torch\nclass Model(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        f"        {init}\n"
        f"    def forward(self, x):\n        return {forward}\ndef get_inputs():\n    return {inputs}\n"
    )


def test_one_subgraph_is_forward_and_backward() -> None:
    job = kernelbench.job(TASK, new(), dsl="torch")
    (backward,) = job.backward
    asked = backward.model.gradients
    assert asked is not None
    # linear, norm: two parameters each, three statistics; scale; x; two from above; a constant
    assert len(backward.subgraph.inputs) == 4 + 3 + 1 + 1 + 2 + 1
    assert [o for o, _ in asked.upstream] == [0, 1]
    assert len(asked.wanted) == 5
    assert len(backward.subgraph.output_specs) == 2 + 5
    assert backward.model.updates == ()
    assert len(backward.model.constants) == 1


def test_the_subgraph_gives_the_gradients_of_model() -> None:
    t = simple("x.sin().sum(0)", inputs="[torch.randn(4, 3, requires_grad=True)]")
    assert t.gradients
    (backward,) = kernelbench.job(t, "", dsl="torch").backward
    x, above = torch.randn(4, 3), torch.randn(3)
    y, gradient = reference(backward.subgraph)(x, above)
    torch.testing.assert_close(y, x.sin().sum(0))
    torch.testing.assert_close(gradient, x.cos() * above)
    assert gradient.is_contiguous()


def test_a_task_has_gradients_only_if_it_says_so(judge: Judge) -> None:
    plain = read_task(MODEL.replace("GRADIENTS = True", "").replace(", requires_grad=True", ""))
    assert not plain.gradients
    assert kernelbench.job(plain, "", dsl="torch").backward == ()
    detached = new(("return torch.nn", "x = x.detach(); y = y.detach()\n        return torch.nn"))
    assert judged(judge, plain, detached).outcome is Outcome.RIGHT


def test_what_is_right_forward_and_backward(judge: Judge) -> None:
    found = judged(judge, TASK, new())
    assert found.outcome is Outcome.RIGHT, found.detail
    assert any(text.startswith("gradients: given x32, normal x32, dyadic x1 misaligned") for text in found.checked)


HALF = "0.5 * x + (0.5 * x).detach()"
WRONG = {
    "detached": ((("x.sum(1)", "x.sum(1).detach()"),), "output 1 has no gradients"),
    "half": ((("x.sum(1)", f"({HALF}).sum(1)"),), "largest error"),
    "zero for the input": (
        (("x.sum(1)", "Zero.apply(x)"), ("class ModelNew", """
class Zero(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.sum(1)
    @staticmethod
    def backward(ctx, above):
        return torch.zeros(6, 8)

class ModelNew""")),
        "largest error",
    ),
    "of a sum, whatever comes from above": (
        (("x.sum(1)", "Ones.apply(x)"), ("class ModelNew", """
class Ones(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.sum(1)
    @staticmethod
    def backward(ctx, above):
        return torch.ones(6, 8)

class ModelNew""")),
        "largest error",
    ),
    "no gradient for a parameter": (
        (("self.linear(x)", "torch.nn.functional.linear(x, self.linear.weight, self.linear.bias.detach())"),),
        "no gradient reaches parameter linear.bias",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_gradients_that_are_wrong(judge: Judge, name: str) -> None:
    changes, text = WRONG[name]
    found = judged(judge, TASK, new(*changes))
    assert found.outcome is Outcome.WRONG, found
    assert found.tricks[0] is Trick.GRADIENTS
    assert text in found.detail
    assert "forward and backward: " in found.detail


def test_gradients_of_parameters_are_asked_for_by_name(judge: Judge) -> None:
    t = simple("self.linear(x)", init="self.linear = torch.nn.Linear(8, 5)")
    source = t.source.replace("class Model(", "class ModelNew(")
    assert judged(judge, t, source).outcome is Outcome.RIGHT
    found = judged(judge, t, source.replace("self.linear", "self.other"))
    assert found.outcome is Outcome.WRONG
    assert "Model has a gradient for its parameter linear.weight" in found.detail
    assert found.tricks == (Trick.GRADIENTS,)


LESS_PRECISE = """
import torch

class Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square().sum(1)

    @staticmethod
    def backward(ctx, above):
        (x,) = ctx.saved_tensors
        return (2 * x * above[:, None]).bfloat16().float()

class ModelNew(torch.nn.Module):
    def forward(self, x):
        return Sum.apply(x)
"""


def test_gradients_are_held_to_the_precision_of_values(judge: Judge) -> None:
    t = simple("x.square().sum(1)", inputs="[torch.randn(64, 32, requires_grad=True)]")
    found = judged(judge, t, LESS_PRECISE)
    assert found.outcome is Outcome.WRONG, found
    assert Trick.GRADIENTS in found.tricks
    assert judged(judge, t, LESS_PRECISE.replace(".bfloat16().float()", "")).outcome is Outcome.RIGHT


def test_gradients_at_each_size_that_is_given(judge: Judge) -> None:
    t = read_task("import torch\nclass Model(torch.nn.Module):\n    def forward(self, x):\n        return x.exp()\n"
                  "def get_inputs_dyn_list():\n"
                  "    return [[torch.randn(m, 3, requires_grad=True)] for m in (4, 7, 2, 9)]\n")  # fmt: skip
    assert [b.subgraph.inputs[0].shape for b in kernelbench.job(t, "", dsl="torch").backward] == [
        (4, 3),
        (7, 3),
        (2, 3),
    ]
    right = "import torch\nclass ModelNew(torch.nn.Module):\n    def forward(self, x):\n        return x.exp()\n"
    assert judged(judge, t, right).outcome is Outcome.RIGHT
    other = right.replace("x.exp()", "x.exp() if len(x) != 7 else x.exp().detach()")
    assert judged(judge, t, other).tricks == (Trick.GRADIENTS,)


def test_a_task_without_anything_to_differentiate_is_named() -> None:
    t = read_task("import torch\nGRADIENTS = True\nclass Model(torch.nn.Module):\n    def forward(self, x):\n"
                  "        return x * 2\ndef get_inputs():\n    return [torch.randn(4)]\n")  # fmt: skip
    trace(t)
    with pytest.raises(TaskError, match="nothing that Model returns has one"):
        kernelbench.job(t, "", dsl="torch")


def test_a_reproduction_of_wrong_gradients_runs_on_its_own(judge: Judge, tmp_path: Path) -> None:
    found = judged(judge, TASK, new(("x.sum(1)", f"({HALF}).sum(1)")), reproduce=True)
    path = tmp_path / "shown.py"
    path.write_text(found.reproduction)
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "WRONG: output 6 has more than twice eager's error" in done.stdout


def test_a_reproduction_of_a_wrong_layout_runs_on_its_own(judge: Judge, tmp_path: Path) -> None:
    t = simple("torch.relu(x)", inputs="[torch.randn(6, 8)]")
    source = (
        "import torch\nclass ModelNew(torch.nn.Module):\n    def forward(self, x):\n"
        "        return torch.relu(x.as_strided((6, 8), (8, 1)))\n"
    )
    found = judged(judge, t, source, reproduce=True)
    assert Trick.SHAPE in found.tricks
    path = tmp_path / "shown.py"
    path.write_text(found.reproduction)
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "WRONG: output 0" in done.stdout


BRANCHES = """
import torch
import triton
import triton.language as tl


@triton.jit
def times(x, y, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, mask=i < n) * tl.load(y + i, mask=i < n), mask=i < n)


def launch(x, y):
    x, y = x.contiguous(), y.contiguous()
    out = torch.empty_like(x)
    times[(triton.cdiv(out.numel(), 64),)](x, y, out, out.numel(), BLOCK=64)
    return out


class Times(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y):
        ctx.save_for_backward(x, y)
        return launch(x, y)

    @staticmethod
    def backward(ctx, above):
        x, y = ctx.saved_tensors
        return launch(above, y), launch(above, x)


class ModelNew(torch.nn.Module):
    def forward(self, x):
        square = Times.apply(x, x)
        return square, Times.apply(square, x)
"""


def test_autograd_itself_may_add_up_what_reaches_a_tensor_from_several_sides(judge: Judge) -> None:
    t = simple("(x * x, x * x * x)")
    found = judged(judge, t, BRANCHES, dsl="triton", screens=kernelbench.SCREENS)
    assert found.outcome is Outcome.RIGHT, found.detail
    assert "gradients: " in found.checked[-1]
    assert found.checked[-1].endswith("all of its arithmetic is in its kernels")
    added = BRANCHES.replace("launch(above, y), launch(above, x)", "launch(above, y) + 0 * x, launch(above, x)")
    found = judged(judge, t, added, dsl="triton", screens=frozenset({"running"}))
    assert found.outcome is Outcome.REJECTED, found
    assert found.tricks == (Trick.CALLS_TORCH,)
