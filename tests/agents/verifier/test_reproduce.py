"""A verdict that is not "right" comes with a program that shows why: one file, which needs torch and nothing of AKG."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from akg_dynamo.agents.verifier import Judge, kernelbench
from akg_dynamo.core.types import Outcome, Subgraph
from akg_dynamo.fusion.task import read_task

from .kernels import add_relu, contiguous, dynamic_softmax, job, op, single

ATTACKS = Path(__file__).parents[2] / "attacks"


def run(text: str, folder: Path) -> tuple[int, str]:
    path = folder / "reproduction.py"
    path.write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, path.name], cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )
    assert not done.stderr, done.stderr
    return done.returncode, done.stdout


WRONG: dict[str, tuple[Subgraph, str, str]] = {
    "an element": (add_relu(), "x = torch.relu(args[0] + args[1]); x[777] *= 1.01; return (x,)", "twice eager's error"),
    "a dtype": (add_relu(), "return (torch.relu(args[0] + args[1]).double(),)", "must be torch.float32[1000]"),
    "NaN": (add_relu(), "return (torch.relu(args[0] + args[1]).nan_to_num(0.0),)", "eager nan"),
    "stale memory": (
        add_relu(),
        "x = torch.empty(1000); x[:9] = torch.relu(args[0] + args[1])[:9]; return (x,)",
        "is nan",
    ),
    "writes into an input": (add_relu(), "args[0].add_(args[1]); return (torch.relu(args[0]),)", "was written to"),
    "one size of many": (
        dynamic_softmax(),
        "x = torch.softmax(args[0], -1); x[..., 1024:] = 0; return (x,)",
        "twice eager's error",
    ),
    "complex": (
        single("aten.mul.Tensor", *(contiguous("complex64", 30),) * 3),
        "return ((args[0] * args[1]).conj().resolve_conj(),)",
        "output 0",
    ),
    "no argument at all": (
        Subgraph((), (), (op("aten.full.default", contiguous("float32", 7), (7,), 2.0),), (0,)),
        "return (torch.full((7,), 3.0),)",
        "twice eager's error",
    ),
    "an integer": (
        single("aten.argmax.default", contiguous("int64", 16), contiguous("float32", 16, 64), extra=(1,)),
        "return (args[0].argmax(1) + 1,)",
        "differs at [0]",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_the_file_shows_what_is_wrong_and_not_what_is_not(judge: Judge, name: str, tmp_path: Path) -> None:
    sub, body, says = WRONG[name]
    asked = job(sub, body, reproduce=True, seed=77)
    (verdict,) = judge.judge([asked])
    assert verdict.outcome is Outcome.WRONG, verdict
    assert verdict.seed == 77
    assert "akg_dynamo" not in verdict.reproduction
    code, output = run(verdict.reproduction, tmp_path)
    assert code == 1, output
    assert "WRONG: " in output
    assert says in output
    right = {"complex": "return (args[0] * args[1],)", "no argument at all": "return (torch.full((7,), 2.0),)"}.get(
        name, "return (torch.relu(args[0] + args[1]),)" if sub == add_relu() else ""
    )
    if right:
        code, output = run(verdict.reproduction.replace(body, right), tmp_path)
        assert (code, output.splitlines()[-1]) == (0, "nothing wrong on these inputs")


def test_nothing_is_written_down_unasked_or_for_what_is_right(judge: Judge) -> None:
    right, wrong = "return (torch.relu(args[0] + args[1]),)", "return (args[0] + args[1],)"
    unasked, fine = judge.judge([job(add_relu(), wrong), job(add_relu(), right, reproduce=True)])
    assert (unasked.outcome, fine.outcome) == (Outcome.WRONG, Outcome.RIGHT)
    assert unasked.reproduction == fine.reproduction == ""


def test_inputs_too_large_to_be_written_down_are_not(judge: Judge) -> None:
    (verdict,) = judge.judge([job(add_relu(700_000), "return (args[0] + args[1],)", reproduce=True)])
    assert verdict.outcome is Outcome.WRONG
    assert verdict.reproduction == ""


@pytest.mark.parametrize("attack", ["precision/triton_tf32_products", "input_structure/cpp_blocks_of_sixteen"])
def test_a_model_s_file_builds_it_with_the_parameters_of_the_case(judge: Judge, attack: str, tmp_path: Path) -> None:
    path = ATTACKS / "kernels" / f"{attack}.py"
    task, dsl = ("linear_relu", "triton") if "triton" in attack else ("softmax_dynamic", "cpp")
    asked = kernelbench.job(read_task(ATTACKS / "tasks" / f"{task}.py"), path.read_text(), dsl=dsl)
    (verdict,) = judge.judge([replace(asked, reproduce=True, screens=frozenset())])
    assert verdict.outcome is Outcome.WRONG, verdict
    code, output = run(verdict.reproduction, tmp_path)
    assert code == 1, output
    assert "WRONG: output 0" in output


def test_a_crash_can_be_reproduced(judge: Judge, tmp_path: Path) -> None:
    body = "import ctypes; ctypes.string_at(0); return (args[0],)"
    (verdict,) = judge.judge([job(add_relu(), body, reproduce=True)])
    assert verdict.outcome is Outcome.CRASHED
    path = tmp_path / "reproduction.py"
    path.write_text(verdict.reproduction)
    assert subprocess.run([sys.executable, path], check=False, timeout=300, capture_output=True).returncode < 0
