"""Triton kernels for a device are interpreted on the host too, where what they read out of bounds is seen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from akg_dynamo.agents.verifier import Job, Judge, kernelbench, plan
from akg_dynamo.agents.verifier.behaviour import Behaviour
from akg_dynamo.agents.verifier.numerics import Contract, Rule
from akg_dynamo.agents.verifier.workers import Failed
from akg_dynamo.core.types import Outcome, Subgraph, TensorSpec, Trick
from akg_dynamo.fusion.task import read_task

from .kernels import add_relu

TASK = """
import torch
class Model(torch.nn.Module):
    def forward(self, x):
        return x.sum(dim=1)
def get_init_inputs():
    return []
def get_inputs():
    return [torch.randn(32, 96)]
"""
SUM = """
import torch, triton
import triton.language as tl
@triton.jit
def row_sum(x, out, columns, BLOCK: tl.constexpr):
    row, i = tl.program_id(0), tl.arange(0, BLOCK)
    values = tl.load(x + row * columns + i - {before}, mask=i < columns + {before}, other=0.0)
    tl.store(out + row, tl.sum(tl.where(i < {before}, 0.0, values), axis=0))
class ModelNew(torch.nn.Module):
    def forward(self, x):
        x = x.contiguous()
        out = torch.empty(x.shape[0], dtype=x.dtype, device=x.device)
        row_sum[(x.shape[0],)](x, out, x.shape[1], BLOCK=128)
        return out
"""


def on_device(sub: Subgraph) -> Subgraph:
    def moved(spec: TensorSpec) -> TensorSpec:
        return replace(spec, device="cuda")

    nodes = tuple(replace(n, out=moved(n.out)) for n in sub.nodes if isinstance(n.out, TensorSpec))
    return replace(sub, inputs=tuple(map(moved, sub.inputs)), nodes=nodes)


@pytest.mark.parametrize(("before", "tricks"), [(0, ()), (1, (Trick.OUT_OF_BOUNDS,))])
def test_a_job_of_a_device_is_judged_on_the_host(
    judge: Judge, tmp_path: Path, before: int, tricks: tuple[Trick, ...]
) -> None:
    (tmp_path / "task.py").write_text(TASK)
    asked = kernelbench.job(read_task(tmp_path / "task.py"), SUM.format(before=before), dsl="triton")
    there = replace(asked, subgraph=on_device(asked.subgraph), ordinal=3)
    assert there.device == "cuda"
    here = there.on_host(interpreted=True)
    assert (here.device, here.ordinal, here.subgraph) == ("cpu", None, asked.subgraph)
    verdict = judge.judge([here])[0]
    assert verdict.tricks == tricks, verdict.detail


class _Values:
    """What `Behaviour` asks of values, as far as bounds go."""

    model, kind = None, "normal"
    means = plan.Means(1 << 24, candidate_bytes=1 << 30)

    def __init__(self, says: Failed | None) -> None:
        self.checked: list[str] = []
        self.says = says

    def arena(self, sizes: object) -> SimpleNamespace:
        return SimpleNamespace(reset=lambda: None)

    def lay_out(self, group: plan.Group, number: int) -> object:
        return group

    def contract(self, slack: float) -> Contract:
        return Contract(Rule.BOUNDED, 0.0, slack)

    def run(self, batch: object, contracts: object) -> None:
        if self.says is not None:
            raise self.says


def behaviour(job: Job, says: Failed | None, *, starts: bool = True) -> tuple[Behaviour, _Values, list[str]]:
    ended: list[str] = []
    worker = SimpleNamespace(alive=True, end=lambda: ended.append("ended"))

    def interpret() -> tuple[object, _Values]:
        if not starts:
            raise Failed(Outcome.BUILD_FAILED, "no interpreter knows it")
        return worker, _Values(says)

    values = _Values(None)
    return Behaviour(job, values, lambda watch: None, interpret), values, ended  # type: ignore[arg-type,return-value]


def candidate(n: int) -> Job:
    sub = add_relu(n)
    return Job(on_device(sub), kernelbench.Candidate("k", "", "triton"))


def test_only_what_is_out_of_bounds_counts() -> None:
    outside = Failed(Outcome.WRONG, "on normal inputs: a kernel reads 4 bytes", Trick.OUT_OF_BOUNDS)
    found, _, ended = behaviour(candidate(64), outside)
    with pytest.raises(Failed, match="interpreted on normal inputs: a kernel reads") as caught:
        found._interpreted()
    assert caught.value.tricks == (Trick.OUT_OF_BOUNDS,)
    assert ended
    for says in (None, Failed(Outcome.WRONG, "run() raised: no such operation", Trick.VALUES)):
        found, values, ended = behaviour(candidate(64), says)
        found._interpreted()
        assert "bounds of its kernels watched" in values.checked[0]
        assert ended


def test_what_cannot_be_interpreted_is_reported() -> None:
    found, values, _ = behaviour(candidate(1 << 20), None)
    found._interpreted()
    assert "too large" in values.checked[0]
    found, values, _ = behaviour(candidate(64), None, starts=False)
    found._interpreted()
    assert "no interpreter knows it" in values.checked[0]
