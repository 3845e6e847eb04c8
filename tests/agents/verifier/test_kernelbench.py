"""KernelBench tasks as jobs: traced with their parameters, and told apart from what cannot be judged."""

from __future__ import annotations

import textwrap
from typing import Any

import pytest
import torch

from akg_dynamo.agents.coder import by_rules
from akg_dynamo.agents.designer.rules import design
from akg_dynamo.agents.verifier import Judge, kernelbench
from akg_dynamo.agents.verifier.kernelbench import trace
from akg_dynamo.core.errors import TaskError
from akg_dynamo.core.types import Design, Outcome, Subgraph, Target, Trick, Verdict
from akg_dynamo.fusion.task import Task, read_task, to_task

from .kernels import add_relu, dynamic_softmax


def task(
    forward: str, *, init: str = "pass", inputs: str = "[torch.randn(6, 8)]", args: str = "x", dyn: str = ""
) -> Task:
    given = f"def get_inputs_dyn_list():\n    return {dyn}\n" if dyn else f"def get_inputs():\n    return {inputs}\n"
    source = (
        "import torch\n\nclass Model(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        f"{textwrap.indent(textwrap.dedent(init), ' ' * 8)}\n\n    def forward(self, {args}):\n"
        f"{textwrap.indent(textwrap.dedent(forward), ' ' * 8)}\n\ndef get_init_inputs():\n    return []\n\n{given}"
    )
    return read_task(source)


def verdict(judge: Judge, t: Task, source: str | None = None, **options: Any) -> Verdict:
    """Of the task's own Model under the name of ModelNew, or of another source; as plain Python."""
    source = source or t.source.replace("class Model(", "class ModelNew(").partition("def get_init_inputs")[0]
    return judge.judge([kernelbench.job(t, source, dsl="torch", **options)])[0]


BATCH_NORM = "self.bn = torch.nn.BatchNorm1d(8)"
RIGHT = {
    "parameters": task("return torch.relu(self.l(x))", init="self.l = torch.nn.Linear(8, 5)"),
    "two outputs": task("return x + 1, x.sum(1)"),
    "a buffer that is updated": task("return self.bn(x)", init=BATCH_NORM),
    "numbers among the inputs": task("return x * n", inputs="[torch.randn(6, 8), 3]", args="x, n"),
    "an input that is not used": task("return x * 2", inputs="[torch.randn(6, 8), torch.randn(3)]", args="x, y"),
    "indices": task("return self.e(x)", init="self.e = torch.nn.Embedding(9, 4)", inputs="[torch.randint(0, 9, (7,))]"),
    "a constant in the source": task("return x * torch.tensor([1.0, 2.0]).repeat(4)"),
    "several sizes": task(
        "return torch.softmax(x, -1)", dyn="[[torch.randn(m, n)] for m, n in ((4, 8), (3, 5), (9, 2))]"
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_task_is_right_for_itself(judge: Judge, name: str) -> None:
    found = verdict(judge, RIGHT[name])
    assert found.outcome is Outcome.RIGHT, found.detail
    assert any("given" in text for text in found.checked)


def test_parameters_buffers_and_inputs_are_told_apart() -> None:
    subgraph, call = trace(task("return self.bn(self.l(x))", init=f"self.l = torch.nn.Linear(8, 8)\n{BATCH_NORM}"))
    names = [name for name, _ in call.state]
    assert names[:4] == ["l.weight", "l.bias", "bn.weight", "bn.bias"]
    assert call.updates == ("bn.running_mean", "bn.running_var", "bn.num_batches_tracked")
    assert len(subgraph.outputs) == 4
    assert len(call.arguments) == 1
    assert call.single


def test_sizes_that_differ_are_symbols() -> None:
    subgraph, _ = trace(RIGHT["several sizes"])
    assert [d for d in subgraph.inputs[0].shape if isinstance(d, str)] == ["s0", "s1"]


@pytest.mark.parametrize("sub", [add_relu(), dynamic_softmax()], ids=["static", "dynamic"])
def test_kernels_by_rules_pass_as_anybody_s_would(judge: Judge, sub: Subgraph) -> None:
    """Their tasks seed themselves, and are given sizes as numbers."""
    chosen = design(sub, Target())
    assert isinstance(chosen, Design)
    source = by_rules.write(sub, chosen, Target(), "kernel").source
    found = judge.judge([kernelbench.job(to_task(sub, "task"), source, dsl="cpp")])[0]
    assert found.outcome is Outcome.RIGHT, found.detail
    assert "all of its arithmetic is in its kernels" in found.checked


def test_numbers_that_are_no_sizes_and_vary_are_refused() -> None:
    with pytest.raises(TaskError, match="no size"):
        trace(task("return x * n", args="x, n", dyn="[[torch.randn(m, 8), k] for m, k in ((4, 1), (5, 9))]"))


def test_a_buffer_that_is_not_updated_is_missed(judge: Judge) -> None:
    t = task("return self.bn(x)", init=BATCH_NORM)
    source = (
        "import torch\nclass ModelNew(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        f"        {BATCH_NORM}\n    def forward(self, x):\n        return torch.nn.functional."
        "batch_norm(x, None, None, self.bn.weight, self.bn.bias, True)\n"
    )
    assert verdict(judge, t, source).outcome is Outcome.WRONG


def test_parameters_may_have_other_names_if_they_are_drawn_alike(judge: Judge) -> None:
    t = RIGHT["parameters"]
    source = (
        t.source.replace("class Model(", "class ModelNew(").replace("self.l", "self.other").partition("def get_i")[0]
    )
    assert verdict(judge, t, source).outcome is Outcome.RIGHT
    drawn_twice = source.replace("self.other = ", "torch.randn(3)\n        self.other = ")
    assert verdict(judge, t, drawn_twice).outcome is Outcome.WRONG


UNUSABLE = {
    "random": (task("return torch.nn.functional.dropout(x)"), "different outputs for the same inputs"),
    "no tensor": (task("return x.shape[0]"), "not a tensor"),
    "data-dependent": (task("return x[x > 0]"), "depends on the values"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_what_cannot_be_judged_is_said(name: str) -> None:
    t, text = UNUSABLE[name]
    with pytest.raises(TaskError, match=text):
        trace(t)


NO_MODEL = "import torch\n"
RAISES = "import torch\nclass ModelNew(torch.nn.Module):\n    def __init__(self):\n        raise ValueError('no')\n"


def test_a_model_that_cannot_be_built_is_named(judge: Judge) -> None:
    for source, text in ((NO_MODEL, "no class ModelNew"), (RAISES, "ValueError: no")):
        found = verdict(judge, RIGHT["parameters"], source, screens=frozenset())
        assert found.outcome is Outcome.BUILD_FAILED
        assert text in found.detail


def test_other_weights_are_tried_too(judge: Judge) -> None:
    t = task("return self.l(x)", init="self.l = torch.nn.Linear(8, 5)")
    torch.manual_seed(20_012)
    weight, bias = t.model().state_dict().values()
    source = (
        f"import torch\nW, B = torch.tensor({weight.tolist()}), torch.tensor({bias.tolist()})\n"
        "class ModelNew(torch.nn.Module):\n    def forward(self, x):\n        return torch.nn.functional.linear(x, "
        "W, B)\n"
    )
    assert verdict(judge, t, source).outcome is Outcome.WRONG


@pytest.mark.parametrize(
    ("forward", "text"),
    [
        ("return x * 0", "zeros"),
        ("return torch.ones_like(x)", "constant"),
        ("return x - x + torch.arange(8.0)", "other inputs"),
    ],
)
def test_degenerate_tasks_are_marked(judge: Judge, forward: str, text: str) -> None:
    found = verdict(judge, task(forward))
    assert found.outcome is Outcome.DEGENERATE
    assert text in found.detail


def test_weights_that_are_written_to_are_inputs_that_are_written_to(judge: Judge) -> None:
    t = task("return self.l(x)", init="self.l = torch.nn.Linear(8, 5)")
    source = t.source.replace("class Model(", "class ModelNew(").partition("def get_init_inputs")[0]
    source = source.replace("return self.l(x)", "y = self.l(x)\n        self.l.bias.data.add_(1)\n        return y")
    found = verdict(judge, t, source)
    assert found.outcome is Outcome.WRONG
    assert set(found.tricks) & {Trick.MUTATES, Trick.DRIFTS}
