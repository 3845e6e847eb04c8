"""A kernel that writes into given memory must do there what it does in fresh memory."""

from __future__ import annotations

import pytest

from akg_dynamo.agents.verifier import Judge
from akg_dynamo.core.types import Outcome, Subgraph

from .kernels import add_relu, contiguous, job, op, single

RUN = "return (torch.relu(args[0] + args[1]),)"
RIGHT = """
def run_into(y, a, b):
    torch.add(a, b, out=y).relu_()
    return (y,)
"""
IN_PLACE = "IN_PLACE = ((0, 0), (0, 1))\n"


@pytest.mark.parametrize("top", [RIGHT, RIGHT + IN_PLACE, RIGHT + "IN_PLACE = ()\n"])
@pytest.mark.parametrize("sub", [add_relu(), add_relu(0), add_relu(40_000, "bfloat16")])
def test_right_kernels_pass(judge: Judge, top: str, sub: Subgraph) -> None:
    (verdict,) = judge.judge([job(sub, RUN, top=top)])
    assert verdict.outcome is Outcome.RIGHT, verdict.detail


WRONG = {
    "another value": ("def run_into(y, a, b): y.copy_(torch.relu(a + b) * 1.0001)", "given memory"),
    "adds to what is there": ("def run_into(y, a, b): y.add_(torch.relu(a + b))", "given memory"),
    "leaves a tail": ("def run_into(y, a, b): y[:999] = torch.relu(a + b)[:999]", "given memory"),
    "writes past the end": (
        RIGHT.replace("return", "y.as_strided((1,), (1,), y.storage_offset() + 1000)[0] = 1; return"),
        "wrote past an end",
    ),
    "reads what it overwrote": (
        "IN_PLACE = ((0, 0), (0, 1))\ndef run_into(y, a, b): y.copy_(b); y.copy_(torch.relu(a + b))",
        "the memory of input 0",
    ),
    "names another layout": (
        "IN_PLACE = ((0, 0),)\ndef run_into(y, a, b): y.copy_(a + b)",
        "differently",
    ),
    "writes into an input": ("def run_into(y, a, b): y.copy_(torch.relu(a.add_(b)))", "wrote into input 0"),
    "raises": ("def run_into(y, a, b): raise ValueError('no')", "run_into(): ValueError: no"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_kernels_fail_with_their_reason(judge: Judge, name: str) -> None:
    top, reason = WRONG[name]
    sub, run = add_relu(), RUN
    if "differently" in reason:
        s, wide = contiguous("float32", 100, 10), contiguous("float32", 10)
        sub, run = single("aten.add.Tensor", s, wide, s), "return (args[0] + args[1],)"
    (verdict,) = judge.judge([job(sub, run, top=top)])
    assert verdict.outcome is Outcome.WRONG, verdict
    assert reason in verdict.detail


def test_several_outputs_at_once(judge: Judge) -> None:
    s = contiguous("float32", 500)
    sub = Subgraph((s, s), (), (op("aten.add.Tensor", s, _ref(0), _ref(1)), op("aten.neg.default", s, _ref(0))), (2, 3))
    run = "return (args[0] + args[1], -args[0])"
    one_by_one = """
IN_PLACE = ((0, 1), (1, 0))
def run_into(y, z, a, b):
    torch.add(a, b, out=y)
    torch.neg(a, out=z)
"""
    swapped = "IN_PLACE = ((0, 0), (1, 1))" + one_by_one.partition("\n\n")[0].partition("))")[2]
    right, wrong = judge.judge([job(sub, run, top=one_by_one), job(sub, run, top=swapped)])
    assert right.outcome is Outcome.RIGHT, right.detail
    assert wrong.outcome is Outcome.WRONG
    assert "output 1 differs when it is written into" in wrong.detail


def _ref(i: int):  # type: ignore[no-untyped-def]
    from akg_dynamo.core.types import Ref

    return Ref(i)
