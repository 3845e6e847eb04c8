"""compute-sanitizer is found where it is installed, and what it says is read; on a device it sees what zones cannot."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from akg_dynamo.agents.verifier import Job, Judge, sanitizer, sanitizing
from akg_dynamo.agents.verifier.workers import Failed
from akg_dynamo.core.types import Candidate, OpNode, Outcome, Ref, Subgraph, TensorSpec, Trick

from .kernels import add_relu, job

# What the tool prints, as of CUDA 12 and 13.
CLEAN = "========= COMPUTE-SANITIZER\nnothing wrong on these inputs\n========= ERROR SUMMARY: 0 errors\n"
BROKEN = """========= COMPUTE-SANITIZER
========= Invalid __global__ read of size 4 bytes
=========     at add_relu+0x1b0 in kernel.py:9
=========     by thread (127,0,0) in block (0,0,0)
=========     Address 0x7f2c02000fa0 is out of bounds
========= ERROR SUMMARY: 1 error
"""
OF_TORCH = """========= COMPUTE-SANITIZER
========= Uninitialized __global__ memory read of size 4 bytes
=========     at void at::native::reduce_kernel<(int)512, (int)1>(T3)+0x4f0
=========     by thread (0,0,0) in block (0,0,0)
=========
========= ERROR SUMMARY: 1 error
"""
RACES = "========= COMPUTE-SANITIZER\n========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n"


@pytest.mark.parametrize(
    ("status", "output", "says"),
    [
        (0, CLEAN, ""),
        (1, CLEAN, ""),  # the values are wrong, which is not its business
        (0, RACES, ""),
        (86, BROKEN, "Invalid __global__ read of size 4 bytes; at add_relu+0x1b0"),
        (86, OF_TORCH, ""),  # what compares, not what is compared
        (86, OF_TORCH + BROKEN, "Invalid __global__ read of size 4 bytes; at add_relu+0x1b0"),
        (86, "========= COMPUTE-SANITIZER", "an error, of which it says nothing"),
        (1, "========= COMPUTE-SANITIZER\n========= Error: Target application terminated", "could not say"),
        (255, "", "could not say: exit status 255; no output"),
    ],
)
def test_what_it_says_is_read(status: int, output: str, says: str, tmp_path: Path) -> None:
    tool = tmp_path / "compute-sanitizer"
    (tmp_path / "output").write_text(output)
    tool.write_text(f'#!/bin/sh\ncat "{tmp_path}/output"\nexit {status}\n')
    tool.chmod(0o755)
    found = sanitizer.findings(str(tool), "", 20.0, ("memcheck",))
    assert found["memcheck"] == says if not says else found["memcheck"].startswith(says)


def test_it_is_told_to_run_the_program_plainly(tmp_path: Path) -> None:
    tool = tmp_path / "compute-sanitizer"
    tool.write_text(
        f'#!/bin/sh\necho "$@" "$PYTORCH_NO_CUDA_MEMORY_CACHING" >> "{tmp_path}/asked"\n'
        'while [ "$1" != 86 ]; do shift; done; shift\nexec "$@"\n'
    )
    tool.chmod(0o755)
    program = f"import sys; open({str(tmp_path / 'ran')!r}, 'a').write(sys.argv[1])"
    assert set(sanitizer.findings(str(tool), program, 20.0)) == set(sanitizer.TOOLS)
    asked = (tmp_path / "asked").read_text().splitlines()
    assert [line.split()[1] for line in asked] == list(sanitizer.TOOLS)
    assert all("--error-exitcode 86" in line and line.endswith("--plain 1") for line in asked)
    assert (tmp_path / "ran").read_text() == "--plain" * len(sanitizer.TOOLS)


def test_what_hangs_is_ended(tmp_path: Path) -> None:
    tool = tmp_path / "compute-sanitizer"
    tool.write_text("#!/bin/sh\nexec sleep 60\n")
    tool.chmod(0o755)
    assert "did not finish" in sanitizer.findings(str(tool), "", 0.2, ("memcheck",))["memcheck"]


def test_the_program_runs_plainly_too(judge: Judge, tmp_path: Path) -> None:
    body = "x = torch.relu(args[0] + args[1]); x[3] += 1; return (x,)"
    (verdict,) = judge.judge([job(add_relu(), body, reproduce=True)])
    (tmp_path / "program.py").write_text(verdict.reproduction)
    command = [sys.executable, str(tmp_path / "program.py"), "--plain"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "WRONG: output 0" in done.stdout


class _Worker:
    """A process under which the tool works, or not, and finds what it is said to find."""

    def __init__(self, says: str) -> None:
        self.says = says
        self.alive = True

    def ask(self, message: dict[str, Any], timeout_s: float, blob: bytes) -> dict[str, Any]:
        assert message["op"] == "sanitized"
        assert b"def run" in blob
        assert timeout_s > len(message["tools"]) * message["timeout_s"]
        return {"found": dict.fromkeys(message["tools"], self.says)}

    def end(self) -> None:
        self.alive = False


class _Workers:
    def __init__(self, works: int, says: str) -> None:
        self.works, self.says = works, says
        self.started: list[tuple[tuple[str, ...], bool, _Worker]] = []

    def start(self, device: str, *, trusted: bool, without: tuple[str, ...], because: str, talks: bool) -> _Worker:
        assert talks
        n_means = len(without) - len(ANYWAY)
        worker = _Worker(self.says if n_means >= self.works else "could not say: it does not start")
        self.started.append((without, trusted, worker))
        return worker


ANYWAY = ("privileges",)


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("says", ["", "Invalid __global__ read"])
@pytest.mark.parametrize("works", [1, 2, 3, 9])
def test_it_runs_as_confined_as_it_works(
    works: int, says: str, trusted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sanitizer, "installed", lambda: "compute-sanitizer")
    monkeypatch.setattr(sanitizing.reproduce, "source", lambda *about: "def run")
    workers = _Workers(works, says)
    values: Any = SimpleNamespace(suspect=object(), checked=[])
    asked: Any = SimpleNamespace(device="cuda", trusted=trusted, timeout_s=1.0)
    it = sanitizing.Sanitizing(workers)  # type: ignore[arg-type]
    for again in (False, True):
        workers.started.clear()
        values.checked.clear()
        if says and works < 9:
            with pytest.raises(Failed, match=r"compute-sanitizer's memcheck: Invalid __global__ read") as failed:
                it.check(asked, values, ANYWAY)
            assert failed.value.tricks == (Trick.OUT_OF_BOUNDS,)
        else:
            it.check(asked, values, ANYWAY)
            (said,) = values.checked
            assert ("memcheck could not say: it does not start" in said) == (works == 9)
            assert ("confined without" in said) == (1 < works < 9)
        assert not any(worker.alive for _, _, worker in workers.started)
        assert all(t == trusted for _, t, _ in workers.started)
        assert len({without for without, _, _ in workers.started}) == (1 if again else {1: 1, 2: 2}.get(works, 4))
        assert all(w[:1] == ANYWAY and "identity" not in w for w, _, _ in workers.started)


def test_a_kernel_of_the_host_is_not_for_it(judge: Judge) -> None:
    (verdict,) = judge.judge([job(add_relu(), "return (torch.relu(args[0] + args[1]),)", sanitize=True)])
    assert verdict.outcome is Outcome.RIGHT
    assert "not under compute-sanitizer: it is for kernels on a CUDA device" in verdict.checked


READS_PAST = """
import torch, triton
import triton.language as tl
@triton.jit
def negate(x, y, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(y + i, -tl.load(x + i{mask}), i < n)
def run(x):
    y = torch.empty_strided((1000,), (1,), device="cuda")
    negate[(1,)](x, y, 1000, BLOCK=1024)
    return (y,)
"""


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available() or not sanitizer.installed(), reason="needs compute-sanitizer")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("trusted", [True, False])
def test_a_read_past_the_end_that_changes_nothing_is_found(judge: Judge, trusted: bool) -> None:
    s = TensorSpec("float32", (1000,), (1,), "cuda")
    sub = Subgraph((s,), (), (OpNode("aten.neg.default", (Ref(0),), (), s),), (1,))
    jobs = [
        Job(
            sub,
            Candidate("k", READS_PAST.format(mask=mask), "triton_cuda"),
            sanitize=True,
            trusted=trusted,
            timeout_s=120.0,
        )
        for mask in (", i < n", "")
    ]
    good, bad = judge.judge(jobs)
    assert good.outcome is Outcome.RIGHT, good.detail
    assert any(c.startswith("under compute-sanitizer (memcheck; ") for c in good.checked), good.checked
    assert bad.outcome is Outcome.WRONG
    assert Trick.OUT_OF_BOUNDS in bad.tricks
    assert "compute-sanitizer's memcheck" in bad.detail
