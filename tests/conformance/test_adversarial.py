"""Kernels by rules on the inputs that kernels by models are tried on: denormal, huge, sorted, constant, low rank, and
what cancels. Not in each verdict, since it costs several times as much: here, for what the benchmarks compute.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from akg_dynamo.agents.coder import by_rules
from akg_dynamo.agents.designer.rules import design
from akg_dynamo.agents.verifier import Job, Judge, plan
from akg_dynamo.agents.verifier.shapes import elements
from akg_dynamo.agents.verifier.smaller import relatives
from akg_dynamo.core.types import Outcome, SplitReason, Subgraph, Target
from akg_dynamo.fusion.extract import whole
from akg_dynamo.fusion.task import read_task

pytestmark = pytest.mark.conformance

FOLDER = Path(__file__).parents[2] / "benchmarks" / "problems"
UNJUDGEABLE = {"any_nan_fp32"}  # on these inputs zeros are right
KNOWN = {"kl_div_fp32": "on denormal inputs"}  # two logs of one number cancel: eager's are equal by chance


def problems() -> dict[str, Path]:
    """One of each kind, the smallest: their names end in their sizes."""
    found: dict[str, Path] = {}
    for path in sorted(FOLDER.glob("*/*.py"), key=lambda p: p.stat().st_size):
        found.setdefault(path.stem.rpartition("_")[0], path)
    return found


def subgraph(path: Path) -> Subgraph | None:
    """The whole of a problem at a small size; None where none of its kind is."""
    task = read_task(path)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        exported = torch.export.export(task.model(), tuple(task.cases[0]), strict=False).run_decompositions()
    outputs = exported.graph.output_node().args[0]
    sub, _ = whole(exported.graph, list(outputs))
    if elements(sub, {}) <= plan.RELATIVE_ELEMENTS:
        return sub
    return next(relatives(sub, plan.RELATIVE_ELEMENTS), None)


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with Judge(keep_warm=False) as one:
        yield one


@pytest.mark.parametrize("name", problems())
def test_a_kernel_by_rules_is_right_on_adversarial_inputs(judge: Judge, name: str) -> None:
    sub = subgraph(problems()[name])
    if sub is None:
        pytest.skip("its sizes cannot be made smaller")
    designed = design(sub, Target())
    if isinstance(designed, SplitReason):
        pytest.skip(f"no kernel for the whole of it: {designed}")
    verdict = judge.judge([Job(sub, by_rules.write(sub, designed, Target(), "kernel"), trusted=False)])[0]
    if name in UNJUDGEABLE:
        assert verdict.outcome is Outcome.DEGENERATE
    elif name in KNOWN:
        assert verdict.outcome is Outcome.WRONG, "it is no longer known to be wrong"
        assert KNOWN[name] in verdict.detail
    else:
        assert verdict.outcome is Outcome.RIGHT, verdict.detail
        floats = any(s.dtype.startswith(("float", "bfloat")) for s in sub.inputs)
        tried = " ".join(verdict.checked)
        assert not floats or ("huge" in tried and "denormal" in tried)
