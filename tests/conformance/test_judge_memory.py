"""The judge keeps nothing of what it has judged: its processes after 1,000 verdicts are as large as after 100."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from akg_dynamo.agents.verifier import Job, Judge
from akg_dynamo.core.types import Candidate, OpNode, Outcome, Ref, Subgraph, TensorSpec

pytestmark = pytest.mark.conformance

_BODIES = (
    "return (torch.relu(args[0] + args[1]),)",
    "return (torch.zeros(3),)",
    "raise ValueError('no')",
    "return (torch.relu(args[0] - args[1]),)",
)


def _job(i: int) -> Job:
    spec = TensorSpec("float32", (20_000 + i,), (1,))  # so large that what is remembered is full after a hundred
    add = OpNode("aten.add.Tensor", (Ref(0), Ref(1)), (), spec)
    sub = Subgraph((spec, spec), (), (add, OpNode("aten.relu.default", (Ref(2),), (), spec)), (3,))
    source = f"import torch\ndef run(*args):\n    {_BODIES[i % len(_BODIES)]}  # {i}\n"
    return Job(sub, Candidate(f"k{i}", source, "cpp"), seed=i, trusted=i % 8 > 0)


def _bytes(pid: int) -> int:
    """The memory of a process and all below it; what they share counts once for each, as it did before."""
    own = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return own + sum(map(_bytes, map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())))


def test_a_thousand_verdicts_take_the_memory_of_a_hundred() -> None:
    with Judge(keep_warm=False) as judge:
        verdicts = judge.judge([_job(i) for i in range(100)])
        after_100 = _bytes(judge._process.popen.pid)
        verdicts += judge.judge([_job(i) for i in range(100, 1000)])
        after_1000 = _bytes(judge._process.popen.pid)
    assert [v.outcome for v in verdicts[::4]] == [Outcome.RIGHT] * 250
    assert after_1000 <= 1.05 * after_100, (after_100, after_1000)
