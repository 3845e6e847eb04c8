"""akg verify: right, wrong, and not to be judged have exit codes 0, 1 and 2; what is wrong with a file is named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from akg_dynamo.agents.verifier import shut_down
from akg_dynamo.cli import verify
from akg_dynamo.core.errors import KernelFileError, TaskError
from akg_dynamo.core.types import Outcome, Timing, Trick, Verdict

TASK = """
import torch

class Model(torch.nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, x):
        return torch.relu(x) * self.scale

def get_init_inputs():
    return [3.0]

def get_inputs():
    return [torch.randn(16, 8)]
"""
KERNEL = TASK.replace("class Model", "class ModelNew").partition("def get_init_inputs")[0]
TRITON = """
import torch
import triton
import triton.language as tl

@triton.jit
def scaled(x, out, scale, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + i, mask=i < n)
    tl.store(out + i, tl.where(value < 0, 0.0, value) * scale, mask=i < n)

class ModelNew(torch.nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, x):
        x = x.contiguous()
        out = torch.empty_like(x)
        scaled[(triton.cdiv(x.numel(), 64),)](x, out, self.scale, x.numel(), BLOCK=64)
        return out
"""


@pytest.fixture(scope="module", autouse=True)
def _no_judge_is_left() -> Iterator[None]:
    yield
    shut_down()


def files(tmp_path: Path, kernel: str, task: str = TASK) -> verify.Request:
    (tmp_path / "task.py").write_text(task)
    (tmp_path / "kernel.py").write_text(kernel)
    return verify.Request(tmp_path / "task.py", tmp_path / "kernel.py", timing=False, seed=1)


def akg(*args: object) -> subprocess.CompletedProcess[str]:
    code = "import sys; from akg_dynamo.cli.main import main; main()"
    command = [sys.executable, "-c", code, "verify", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=dict(os.environ), check=False)


@pytest.mark.parametrize(("kernel", "dsl"), [(KERNEL, "torch"), (TRITON, "triton")], ids=["plain", "Triton"])
def test_right(tmp_path: Path, kernel: str, dsl: str) -> None:
    found = verify.run(files(tmp_path, kernel))
    assert found.right, found.verdict.detail
    assert found.dsl == dsl
    assert any("given" in text for text in found.verdict.checked)


WRONG = {
    "values": (KERNEL.replace("* self.scale", "* 2"), Outcome.WRONG, Trick.VALUES, "error"),
    "precision": (KERNEL.replace("(x)", "(x.half().float())"), Outcome.WRONG, Trick.PRECISION, "output 0"),
    "NaN": (KERNEL.replace("torch.relu(x)", "(x + (x - x) / (x - x))"), Outcome.WRONG, Trick.STALE_MEMORY, "is nan"),
    "dtype": (KERNEL.replace("torch.relu(x)", "torch.relu(x).double()"), Outcome.WRONG, Trick.FORM, "float64"),
    "its input": (
        KERNEL.replace("return", "y =") + "        x.mul_(2)\n        return y\n",
        Outcome.WRONG, Trick.MUTATES, "wrote into input 0",
    ),
    "AKG": ("import akg_dynamo\n" + KERNEL, Outcome.REFUSED, Trick.LOOKS_AROUND, "imports akg_dynamo"),
    "torch": (TRITON.replace("x = x.contiguous()", "x = torch.relu(x)"), Outcome.REFUSED, Trick.CALLS_TORCH, "line 18"),
    "dies": (KERNEL.replace("return", "import os; os.abort(); return"), Outcome.REFUSED, Trick.FORGES, "os.abort"),
    "raises": (KERNEL.replace("return", "raise ValueError('so'); return"), Outcome.WRONG, Trick.VALUES, "ValueError"),
    "does not build": ("import torch\nx = 1 / 0\n" + KERNEL, Outcome.BUILD_FAILED, Trick.VALUES, "ZeroDivisionError"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong(tmp_path: Path, name: str) -> None:
    kernel, outcome, trick, text = WRONG[name]
    found = verify.run(files(tmp_path, kernel))
    assert found.verdict.outcome is outcome, found.verdict
    assert trick in found.verdict.tricks
    assert text in found.verdict.detail
    assert found.comparable


def test_a_dsl_that_is_asked_for_is_insisted_on(tmp_path: Path) -> None:
    request = verify.Request(**{**vars(files(tmp_path, KERNEL)), "dsl": "triton"})
    found = verify.run(request)
    assert found.verdict.outcome is Outcome.REFUSED
    assert found.verdict.tricks == (Trick.CALLS_TORCH,)


BAD_KERNELS = {
    "no ModelNew": (TASK, "has no class ModelNew"),
    "no Python": (KERNEL + "def f(:\n", "line 12: invalid syntax"),
    "no such argument": (
        KERNEL.replace("self, scale", "self"),
        r"ModelNew.__init__\(self\) does not take 1 positional",
    ),
    "one argument more": (KERNEL.replace("self, x", "self, x, y"), r"ModelNew.forward\(self, x, y\) does not take 1"),
    "a keyword": (KERNEL.replace("self, x", "self, x, *, y"), "does not take 1 positional argument, as get_inputs"),
}


@pytest.mark.parametrize("name", BAD_KERNELS)
def test_a_kernel_file_that_cannot_be_judged_is_named(tmp_path: Path, name: str) -> None:
    kernel, text = BAD_KERNELS[name]
    with pytest.raises(KernelFileError, match=text) as error:
        verify.run(files(tmp_path, kernel))
    assert "kernel.py" in str(error.value)


def test_arguments_may_have_defaults_and_any_number(tmp_path: Path) -> None:
    for signature in ("self, x, y=1", "self, *args", "self, x, *rest, z=2, **more"):
        kernel = KERNEL.replace("self, x)", f"{signature})").replace(
            "relu(x)", "relu(args[0])" if "*a" in signature else "relu(x)"
        )
        assert verify.run(files(tmp_path, kernel)).right


BAD_TASKS = {
    "no Model": (TASK.replace("class Model", "class Net"), "no class Model"),
    "no inputs": (TASK.replace("def get_inputs", "def other"), r"no get_inputs\(\)"),
    "no Python": ("def f(:\n" + TASK, "invalid syntax"),
    "fails on its own": (TASK.replace("torch.relu(x)", "torch.relu(y)"), r"forward\(\) raised NameError"),
    "fails when read": ("1 / 0\n" + TASK, "running the file raised ZeroDivisionError"),
    "ends the process": ("raise SystemExit(0)\n" + TASK, "ends the process"),
    "other arguments": (TASK.replace("[3.0]", "[3.0, 4.0]"), r"Model\(\) does not take"),
    "other inputs": (TASK.replace("randn(16, 8)]", "randn(16, 8), 3]"), r"forward\(\) does not take the 2 inputs"),
    "random": (TASK.replace("torch.relu(x)", "torch.rand_like(x)"), "draws random numbers"),
}


@pytest.mark.parametrize("name", BAD_TASKS)
def test_a_task_that_cannot_be_used_is_named(tmp_path: Path, name: str) -> None:
    task, text = BAD_TASKS[name]
    with pytest.raises(TaskError, match=text) as error:
        verify.run(files(tmp_path, KERNEL, task))
    assert "task.py" in str(error.value)


def test_exit_code_0_and_what_was_measured(tmp_path: Path) -> None:
    request = files(tmp_path, KERNEL)
    done = akg(request.task, request.kernel)
    assert done.returncode == 0, done.stderr
    assert "right (plain PyTorch, no kernel of its own, on cpu, seed " in done.stdout
    assert "x the speed of Model" in done.stdout


def test_who_wins_is_reported_with_cold_caches_too() -> None:
    timing = Timing(2.0, 1.9, 2.1, 20.0, 10.0, eager_cold_us=90.0, kernel_cold_us=60.0)
    found = verify.Found(Verdict(Outcome.RIGHT, "", ("all",), timing, 0.0, 0.0), "cpp", "cpu", 7)
    assert found.lines()[1:3] == [
        "2.00 x the speed of Model (1.90 to 2.10)",
        "1.50 x with cold caches: 60 us a call against 90",
    ]
    assert found.as_json()["timing"]["eager_cold_us"] == 90.0
    unknown = replace(found, verdict=replace(found.verdict, timing=replace(timing, kernel_cold_us=0.0)))
    assert not any("cold" in line for line in unknown.lines())


def test_a_reproduction_runs_on_its_own(tmp_path: Path) -> None:
    request = files(tmp_path, KERNEL.replace("* self.scale", "* 2"))
    found = verify.run(verify.Request(**{**vars(request), "reproduce": True}))
    (tmp_path / "shown.py").write_text(found.verdict.reproduction)
    done = subprocess.run(
        [sys.executable, tmp_path / "shown.py"], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode != 0, done.stdout
    assert "Traceback" not in done.stderr


def test_exit_code_1_and_what_it_tried(tmp_path: Path) -> None:
    request = files(tmp_path, KERNEL.replace("* self.scale", "* 0"))
    done = akg(request.task, request.kernel, "--json", "--seed", 7)
    assert done.returncode == 1, done.stderr
    said = json.loads(done.stdout)
    assert said["right"] is False
    assert said["outcome"] == "wrong"
    assert said["seed"] == 7
    assert {t["name"] for t in said["tricks"]} <= {"CONSTANT", "VALUES", "STALE_MEMORY"}
    assert said["confined"]


def test_what_is_refused_and_what_is_not_judged_is_said(tmp_path: Path) -> None:
    found = verify.run(files(tmp_path, KERNEL.replace("return", "assert x.is_contiguous(), 'no'; return")))
    said = found.as_json()
    assert said["right"] is True
    assert all("AssertionError: no" in text for text in said["refuses"])
    assert len(said["refuses"]) == 5
    assert said["unjudged"] == ["other sizes: the task gives one set of inputs, which get_inputs_dyn_list() would vary"]
    shown = "\n".join(found.lines())
    assert "It refuses what Model takes: on normal inputs" in shown
    assert "Not judged: other sizes" in shown


def test_what_the_sanitizer_is_not_for_is_said(tmp_path: Path) -> None:
    request = files(tmp_path, KERNEL)
    done = akg(request.task, request.kernel, "--sanitize", "--no-timing")
    assert done.returncode == 0, done.stderr
    assert "not under compute-sanitizer: it is for kernels on a CUDA device" in " ".join(done.stdout.split())


def test_gradients_are_judged_where_the_task_has_them(tmp_path: Path) -> None:
    task = TASK.replace("torch.randn(16, 8)", "torch.randn(16, 8, requires_grad=True)")
    assert verify.run(files(tmp_path, KERNEL, task)).right
    found = verify.run(files(tmp_path, KERNEL.replace("torch.relu(x)", "torch.relu(x).detach()"), task))
    assert found.verdict.tricks == (Trick.GRADIENTS,)
    found = verify.run(files(tmp_path, TRITON, task))
    assert "output 0 has no gradients" in found.verdict.detail


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("nowhere.py", "kernel.py"), "nowhere.py is not a file"),
        (("task.py", "nowhere.py"), "nowhere.py is not a file"),
        (("task.py", "task.py"), "has no class ModelNew"),
        (("task.py", "kernel.py", "--dsl", "fortran"), "--dsl fortran is not known"),
        (("task.py", "kernel.py", "--numerics", "fast"), "needs an rtol"),
        (("task.py", "kernel.py", "--device", "cuda:99"), "--device cuda:99 cannot be used here"),
        (("degenerate.py", "kernel.py"), "degenerate task: an output of zeros is right"),
    ],
)
def test_exit_code_2(tmp_path: Path, arguments: tuple[str, ...], text: str) -> None:
    files(tmp_path, KERNEL)
    (tmp_path / "degenerate.py").write_text(TASK.replace("torch.relu(x)", "(x * 0)"))
    paths = [str(tmp_path / a) if a.endswith(".py") else a for a in arguments]
    done = akg(*paths)
    assert done.returncode == 2, done.stdout + done.stderr
    assert text in " ".join((done.stdout + done.stderr).split())
