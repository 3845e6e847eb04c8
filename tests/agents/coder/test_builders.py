"""Kernels that are compiled in other processes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from akg_dynamo.agents.coder import builders, by_rules
from akg_dynamo.agents.designer.rules import design
from akg_dynamo.core.errors import ToolchainError
from akg_dynamo.core.types import Candidate, Design, OpNode, Ref, Subgraph, Target, TensorSpec

pytest.importorskip("triton")

H200 = Target("cuda", "triton_cuda", "sm_90", "sm_90")
SPEC = TensorSpec("float32", (64, 1000), (1000, 1), "cuda")
SUB = Subgraph((SPEC,), (), (OpNode("aten.relu.default", (Ref(0),), (), SPEC),), (1,))


@pytest.fixture(scope="module")
def candidate() -> Candidate:
    made = design(SUB, H200)
    assert isinstance(made, Design)
    return by_rules.write(SUB, made, H200, "relu")


@pytest.fixture
def other_processes() -> Iterator[builders._Builders]:
    started = builders._Builders(2)
    builders._running[:] = [started]
    _wait(lambda: started.ready)
    yield started
    builders.stop()


def _wait(until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_it_is_built_elsewhere_and_found_here(
    candidate: Candidate,
    other_processes: builders._Builders,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import triton

    by_rules.build(candidate, H200, tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".cubin", ".json"}
    monkeypatch.setattr(triton, "compile", lambda *_, **__: pytest.fail("compiled again"))
    by_rules.built(candidate, H200, tmp_path)


def test_what_does_not_build_is_said(candidate: Candidate, other_processes: builders._Builders, tmp_path: Path) -> None:
    broken = replace(candidate, source=candidate.source.replace("tl.load(", "tl.lode("))
    assert broken != candidate
    with pytest.raises(ToolchainError, match="could not compile"):
        by_rules.build(broken, H200, tmp_path)
    assert builders.build(candidate, H200, tmp_path), "the next one is built"


def test_what_fails_there_is_tried_here(
    candidate: Candidate, other_processes: builders._Builders, tmp_path: Path
) -> None:
    nonsense = replace(candidate, source="raise LookupError('here')")
    with pytest.raises(LookupError, match="here"):
        by_rules.build(nonsense, H200, tmp_path)


@pytest.mark.parametrize("who", ["all", "one of them"])
def test_when_they_end_it_is_built_here(
    candidate: Candidate, other_processes: builders._Builders, tmp_path: Path, who: str
) -> None:
    pid = other_processes.popen.pid
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    assert len(children) == 2
    os.kill(pid if who == "all" else children[0], signal.SIGKILL)
    by_rules.build(candidate, H200, tmp_path)
    assert any(tmp_path.iterdir())
    assert not builders.build(candidate, H200, tmp_path)
    _wait(lambda: not any(Path(f"/proc/{child}/exe").exists() for child in children))


def test_they_end_when_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builders, "_IDLE_S", 300.0)
    idle = builders._Builders(1)
    _wait(lambda: idle.ready)
    monkeypatch.setattr(builders, "_IDLE_S", 0.0)
    idle.ask(Candidate("k", "", "triton_cuda"), H200, Path())  # after which it waits for no time at all
    assert idle.popen.wait(300) == 0
    assert not idle.usable


def test_with_few_cores_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.setattr(builders, "_Builders", lambda _: pytest.fail("started"))
    builders.start()


def test_a_compiler_that_is_a_program_needs_no_other_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(builders, "build", lambda *_: pytest.fail("asked"))
    monkeypatch.setattr(by_rules, "built", lambda *_: None)
    by_rules.build(Candidate("k", "", "cpp"), Target(), tmp_path)
