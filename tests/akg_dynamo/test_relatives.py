"""A large subgraph's relative runs the very C++ of its kernel."""

from __future__ import annotations

from pathlib import Path

import torch

from akg_dynamo import compiler, options
from akg_dynamo.agents.coder import by_rules
from akg_dynamo.agents.designer.rules import design
from akg_dynamo.agents.verifier.shapes import elements
from akg_dynamo.core.types import Candidate, OpNode, Ref, SplitReason, Subgraph, Target, TensorSpec
from akg_dynamo.relatives import relatives_of


def softmax(rows: int, columns: int) -> Subgraph:
    spec = TensorSpec("float32", (rows, columns), (columns, 1))
    return Subgraph((spec,), (), (OpNode("aten._softmax.default", (Ref(0), -1, False), (), spec),), (1,))


def kernel(sub: Subgraph) -> Candidate:
    designed = design(sub, Target())
    assert not isinstance(designed, SplitReason)
    return by_rules.write(sub, designed, Target(), "softmax")


def test_the_same_code_on_smaller_tensors() -> None:
    sub = softmax(2048, 4096)
    written = kernel(sub)
    (relative,) = relatives_of(sub, written, Target())
    assert relative.candidate.device_source == written.device_source
    assert relative.candidate.source != written.source
    assert elements(relative.subgraph, {}) <= elements(sub, {}) // 4


def test_small_subgraphs_and_other_code_have_none() -> None:
    assert relatives_of(softmax(64, 128), kernel(softmax(64, 128)), Target()) == ()
    other = Candidate("softmax", "", "cpp", device_source="// written by hand")
    assert relatives_of(softmax(2048, 4096), other, Target()) == ()


def test_a_compilation_judges_them(tmp_path: Path) -> None:
    sub = softmax(1024, 2048)
    chosen = options.parse({"gate": "correct", "cache_dir": str(tmp_path)})
    solution = compiler.solve([sub], chosen)[sub.digest]
    assert not isinstance(solution, SplitReason), solution
    assert "by the same code on smaller tensors" in solution.verdict.checked[0]
    x = torch.randn(1024, 2048)
    torch.testing.assert_close(solution.run(x)[0], torch.softmax(x, -1))
