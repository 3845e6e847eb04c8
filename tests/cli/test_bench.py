"""`akg bench`: rows that are right, wrong, raising and dying; what is claimed of them; bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from akg_dynamo.bench import compare, run, table
from akg_dynamo.bench.problem import Problem, find, load, moved_bytes
from akg_dynamo.bench.worker import Job, Row
from akg_dynamo.cli.main import app
from akg_dynamo.core.errors import UserError

_PROBLEM = """
import torch
class Model(torch.nn.Module):
    def forward(self, x, y):
        {body}
def get_inputs():
    return [torch.randn(64, 256), torch.randn(64, 256)]
def get_init_inputs():
    return []
"""


def _write(folder: Path, name: str, body: str = "return torch.sigmoid(x) * y + x") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.py"
    path.write_text(_PROBLEM.format(body=body))
    return path


def test_the_command_measures_writes_and_prints(tmp_path: Path) -> None:
    _write(tmp_path / "easy", "gate")
    out = tmp_path / "results"
    arguments = [
        "bench",
        str(tmp_path / "easy"),
        "--device",
        "cpu",
        "--seconds",
        "0.05",
        "--no-inductor",
        "--out",
        str(out),
    ]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    raw = json.loads(next(out.glob("*.json")).read_text())
    assert set(raw["rows"][0]["call_us"]) == {"eager", "akg"}
    assert raw["rows"][0]["bytes"] == 3 * 64 * 256 * 4
    assert raw["environment"]["torch"] == torch.__version__
    assert "easy/gate" in next(out.glob("*.md")).read_text()


def test_a_worker_that_dies_costs_one_row(tmp_path: Path) -> None:
    paths = [
        _write(tmp_path / "p", "a_dies", "import os; os._exit(7)"),
        _write(tmp_path / "p", "b_raises", "raise ValueError('not today')"),
        _write(tmp_path / "p", "c_works"),
    ]
    rows = run.run(paths, [Job("cpu", 0.05, inductor=False)], lambda row: None)
    assert [r.name for r in rows] == ["p/a_dies", "p/b_raises", "p/c_works"]
    assert "died (exit 7)" in rows[0].error
    assert "not today" in rows[1].error
    assert not rows[2].error
    assert not rows[2].wrong


def test_each_device_has_a_process_of_its_own(tmp_path: Path) -> None:
    """And the rows come in the order of the problems, whoever measured them."""
    body = "import os, time; time.sleep(0.5); raise ValueError(f'in process {os.getpid()}')"
    paths = [_write(tmp_path / "p", f"problem_{i}", body) for i in range(6)]
    rows = run.run(paths, [Job("cpu", 0.05, inductor=False)] * 2, lambda row: None)
    assert [r.name for r in rows] == [f"p/problem_{i}" for i in range(6)]
    assert len({r.error for r in rows}) == 2


def test_every_gpu_is_used_unless_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert run.devices("auto") == run.devices("cuda") == ["cuda:0", "cuda:1", "cuda:2"]
    assert run.devices("cuda:1") == ["cuda:1"]
    assert run.devices("cpu") == ["cpu"]
    with pytest.raises(UserError, match=r"no device 'cuda:3'.*cuda:2"):
        run.devices("cuda:3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run.devices("auto") == ["cpu"]


def test_a_plot_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rows = [Row(n, 1000, call_us={"eager": [2.0] * 9, "inductor": [1.5] * 9, "akg": [1.0] * 9}) for n in "ab"]
    table.plot([*rows, Row("c", error="raised")], tmp_path / "speed.png")
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")


def test_a_table_has_every_contender_the_roof_and_what_was_wrong() -> None:
    times = {"eager": [4.0] * 9, "inductor": [2.0] * 9, "akg": [1.0] * 9}
    fine = table.line(Row("a", 2**20, call_us=times, device_us=times, kernels=1), 2**20 / 1e-6).split(" | ")
    assert fine[:6] == ["| a", "1.00", "4.0", "2.0", "1.0", "1.00"]
    assert fine[6].startswith("4.00")
    assert fine[7].startswith("2.00")
    assert "akg wrong: NaN" in table.line(Row("b", 8, wrong={"akg": "NaN"}, call_us=times), 1e9)
    assert "raised" in table.line(Row("c", error="raised"), 1e9)


def test_bad_input_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no problem matches"):
        find([tmp_path / "empty"])
    with pytest.raises(UserError, match="neither a file nor a folder"):
        find([tmp_path / "missing"])
    with pytest.raises(UserError, match=r"no (CUDA )?device"):
        run.devices("cuda:99" if torch.cuda.is_available() else "cuda")
    other = tmp_path / "other.py"
    other.write_text("x = 1\n")
    with pytest.raises(UserError, match="has no Model"):
        load(other, torch.device("cpu"))


def _problem() -> Problem:
    model = torch.nn.Softmax(dim=-1)
    return Problem("p", Path("p.py"), model, (torch.randn(32, 64),))


def test_values_are_held_to_eagers_own_error() -> None:
    problem = _problem()
    expected = problem.model(*problem.inputs)
    truth = compare.exact(problem)
    assert compare.difference(expected.clone(), expected, truth) == ""
    assert compare.difference(truth[0].float(), expected, truth) == ""  # type: ignore[index]
    assert "largest error" in compare.difference(expected * (1 + 1e-4), expected, truth)
    assert "strides" in compare.difference(expected.t().contiguous().t(), expected, truth)
    assert "outputs" in compare.difference((expected, expected), expected, truth)
    spoiled = expected.clone()
    spoiled[3, 5] = float("nan")
    assert compare.difference(spoiled, expected, truth)
    assert "differs in 1" in compare.difference(torch.tensor([1, 2]), torch.tensor([1, 3]), None)


def test_moved_bytes_counts_parameters_once() -> None:
    linear = torch.nn.Linear(8, 4)
    x = torch.randn(2, 8)
    assert moved_bytes(Problem("p", Path("p.py"), linear, (x,)), (linear(x),)) == 4 * (16 + 32 + 4 + 8)


def test_summary_counts_wrong_rows_as_not_fast() -> None:
    fast = Row("a", 1000, call_us={"eager": [2.0] * 9, "akg": [1.0] * 9})
    wrong = Row("b", 1000, wrong={"akg": "values"}, call_us={"eager": [2.0] * 9, "akg": [1.0] * 9})
    slow = Row("c", 1000, call_us={"eager": [1.0] * 9, "akg": [2.0] * 9})
    summary = table.summarise([fast, wrong, slow, Row("d", error="raised")])
    assert (summary.problems, summary.right) == (4, 2)
    assert summary.fast["eager"][1.0] == 0.25
    assert summary.fast["eager"][0.0] == 0.5
    assert summary.over["eager"] == pytest.approx(2 ** (1 / 3))
    assert table.roofline(fast, 1e9) == pytest.approx(1.0)
