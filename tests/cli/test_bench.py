"""`akg bench`: rows that are right, wrong, raising and dying; what is claimed of them; bad input."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from akg_dynamo.bench import compare, run, table
from akg_dynamo.bench.problem import Problem, load, moved_bytes
from akg_dynamo.bench.worker import Job, Row
from akg_dynamo.cli.main import app
from akg_dynamo.cli.results import Results
from akg_dynamo.core.errors import EnvironmentFault, UserError

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


def _rows(
    paths: list[Path], jobs: list[Job], done: Callable[[], object] = lambda: None, timeout_s: float = math.inf
) -> list[Row]:
    """What `run` says of these, in the order of the problems; `done` is told of each."""
    found: dict[int, Row] = {}

    def take(number: int, row: Row) -> None:
        found[number] = row
        done()

    run.run(paths, jobs, take, timeout_s)
    return [found[number] for number in sorted(found)]


def test_a_worker_that_dies_costs_one_row(tmp_path: Path) -> None:
    paths = [
        _write(tmp_path / "p", "a_dies", "import os; os._exit(7)"),
        _write(tmp_path / "p", "b_raises", "raise ValueError('not today')"),
        _write(tmp_path / "p", "c_crashes", "import ctypes; ctypes.string_at(0)"),
        _write(tmp_path / "p", "d_works"),
        _source(tmp_path / "p", "e_ends", "raise SystemExit(3)"),
    ]
    rows = _rows(paths, [Job("cpu", 0.05, inductor=False)])
    assert [r.name for r in rows] == ["p/a_dies", "p/b_raises", "p/c_crashes", "p/d_works", "p/e_ends"]
    assert rows[0].error == "the worker process died (exit 7) while eager was in its first call"
    assert rows[1].error == "raised while eager was in its first call: ValueError: not today"
    assert rows[2].error == "the worker process died (SIGSEGV) while eager was in its first call"
    assert not rows[3].error
    assert not rows[3].wrong
    assert rows[4].error == "raised while the problem's file was being loaded: SystemExit: 3"
    assert [r.failed for r in rows] == ["eager", "eager", "eager", "", "problem"]


def _source(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.py"
    path.write_text(text)
    return path


def _alive(pid: int) -> bool:
    """Whether it is there, and not only as what its parent has yet to ask about."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _wait(until: Callable[[], bool]) -> None:
    late = time.monotonic() + 600  # of a busy machine
    while not until():
        assert time.monotonic() < late
        time.sleep(0.05)


_HANG = """import ctypes, os, subprocess
def hang():
    child = subprocess.Popen(["sleep", "1000"])
    with open({there!r} + ".new", "w") as file:
        file.write(f"{{os.getpid()}} {{child.pid}}")
    os.rename({there!r} + ".new", {there!r})
    ctypes.PyDLL(None).sleep(1000)  # with the interpreter's lock: no thread of this process runs any more
"""
_ALWAYS = "return torch.sigmoid(x) * y"
_HANGS = {
    "eager was in its first call": ("hang()", ""),
    "AKG was compiling, or in its first call": (
        _ALWAYS,
        "import akg_dynamo.compiler\nakg_dynamo.compiler.solve = lambda *a, **k: hang()",
    ),
    "Inductor was compiling, or in its first call": (
        _ALWAYS,
        "import torch._inductor.compile_fx as inductor\ninductor.compile_fx = lambda *a, **k: hang()",
    ),
    "eager was being timed": (
        "if not torch.compiler.is_compiling() and x.dtype == torch.float32:\n"
        "            calls.append(1)\n            if len(calls) == 5: hang()\n        return x + y",
        "calls = []",
    ),
}


def test_a_problem_that_hangs_costs_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it hangs; with its worker everything goes that was started there, and the next one is measured.

    Time passes when a problem hangs, and not otherwise, however long it takes to get there.
    """
    there = tmp_path / "hangs"
    monkeypatch.setattr(run, "monotonic", lambda: time.monotonic() + 1e6 * there.exists())
    paths = []
    for number, (body, module) in enumerate(_HANGS.values()):
        path = _write(tmp_path / "p", f"{number}_hangs", body)
        path.write_text(_HANG.format(there=str(there)) + path.read_text() + module)
        paths.append(path)
    paths.append(_source(tmp_path / "p", "raises", "raise ValueError('not today')"))
    gone: list[int] = []

    def done() -> None:
        if there.exists():
            gone.extend(map(int, there.read_text().split()))
            there.unlink()
            _wait(lambda: not any(map(_alive, gone)))  # a killed process takes a moment to end

    rows = _rows(paths, [Job("cpu", 0.05, inductor=True)], done, timeout_s=5e5)
    assert [r.error for r in rows[:-1]] == [
        f"hung: {w} when 500000 s were over (--timeout); it was killed" for w in _HANGS
    ]
    assert "not today" in rows[-1].error
    assert len(gone) == 2 * len(_HANGS)


def test_problems_of_a_device_share_a_process_until_it_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What they print is no row, and what they read is no path, on whatever level."""
    there = tmp_path / "hangs"
    monkeypatch.setattr(run, "monotonic", lambda: time.monotonic() + 1e6 * there.exists())
    told = "import os\nos.write(1, b'{}')\nprint('{}')\ntry: input()\nexcept EOFError: raise ValueError(os.getpid())"
    endless = f"import time\nopen({str(there)!r}, 'w').close()\nwhile True: time.sleep(1)"
    texts = [told, told, endless, told, told]
    paths = [_source(tmp_path / "p", f"problem_{i}", text) for i, text in enumerate(texts)]
    rows = _rows(paths, [Job("cpu")], lambda: there.unlink(missing_ok=True), timeout_s=5e5)
    assert (
        rows[2].error == "hung: the problem's file was being loaded when 500000 s were over (--timeout); it was killed"
    )
    assert rows[0].error == rows[1].error != rows[3].error == rows[4].error
    assert "ValueError: " in rows[0].error


def test_a_worker_that_does_not_start_ends_the_run(tmp_path: Path) -> None:
    path = _source(tmp_path / "p", "problem", "")
    with pytest.raises(EnvironmentFault, match=r"measures on cuda:77 does not start \(exit 1\)"):
        _rows([path], [Job("cuda:77")])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_what_was_measured_is_kept_whatever_ends_the_run(tmp_path: Path, number: signal.Signals) -> None:
    there, out = tmp_path / "hangs", tmp_path / "out"
    _source(tmp_path / "p", "a_raises", "raise ValueError('not today')")
    _source(tmp_path / "p", "b_hangs", _HANG.format(there=str(there)) + "hang()")
    _source(tmp_path / "p", "c_raises", "raise ValueError('not today')")
    code = "import sys; from akg_dynamo.cli.main import main; main()"
    command = [sys.executable, "-c", code, "bench", str(tmp_path / "p"), "--device", "cpu", "--out", str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        _wait(there.exists)
        running.send_signal(number)
        worker, child = map(int, there.read_text().split())
        _wait(lambda: not _alive(worker))
        if number == signal.SIGKILL:
            os.kill(child, signal.SIGKILL)  # nobody was left to do it
        said, complaints = running.communicate(timeout=600)
    assert "p/a_raises" in said
    assert "p/c_raises" not in said
    if number == signal.SIGKILL:
        kept = [json.loads(line) for line in next(out.glob("*.jsonl")).read_text().splitlines()]
        assert [r["name"] for r in kept] == ["p/a_raises"]
        return
    assert running.returncode == 130
    _wait(lambda: not _alive(child))
    assert "cut short, 2 of 3 problems were not measured: interrupted" in said
    assert "Traceback" not in complaints
    raw = json.loads(next(out.glob("*.json")).read_text())
    assert [r["name"] for r in raw["rows"]] == ["p/a_raises"]
    assert (raw["asked"], raw["cut_short"]) == (3, "interrupted")
    assert "cut short" in next(out.glob("*.md")).read_text()
    assert not list(out.glob("*.jsonl"))


def test_what_was_measured_is_kept_when_the_table_has_no_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _source(tmp_path / "p", "problem", "raise ValueError('not today')")
    lines = table.line

    def unread(row: Row, bandwidth: float) -> str:
        monkeypatch.setattr(table, "line", lines)
        raise BrokenPipeError

    monkeypatch.setattr(table, "line", unread)
    done = _bench(tmp_path / "p", "--out", tmp_path / "out")
    assert isinstance(done.exception, BrokenPipeError)
    assert json.loads(next((tmp_path / "out").glob("*.json")).read_text())["rows"][0]["name"] == "p/problem"


def test_a_disk_that_is_full_costs_the_file_only(tmp_path: Path) -> None:
    out = tmp_path / "out"
    results = Results(out, "cpu")
    out.rename(tmp_path / "gone")
    results.add(Row("p/a"))
    assert results.trouble.endswith(".jsonl cannot be written (No such file or directory)")
    (tmp_path / "gone").rename(out)
    results.add(Row("p/b"))
    rows = next(out.glob("*.jsonl"))
    rows.with_suffix(".json").mkdir()
    assert results.finish({}, "text", None) == (rows,)
    assert results.trouble == f"the results cannot be written (Is a directory). What is there is in {rows}"
    assert json.loads(rows.read_text())["name"] == "p/b"


def test_runs_of_the_same_second_have_files_of_their_own(tmp_path: Path) -> None:
    first, second = Results(tmp_path, "cpu"), Results(tmp_path, "cpu")
    first.add(Row("p/a"))
    second.add(Row("p/b"))
    written = [*first.finish({}, "", None), *second.finish({}, "", None)]
    assert len(set(written)) == len(list(tmp_path.iterdir())) == 4


def _bench(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["bench", "--device", "cpu", *map(str, arguments)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seconds", "-1"], "--seconds -1 is no time to measure a problem for"),
        (["--seconds", "0"], "--seconds 0 is no time"),
        (["--seconds", "nan"], "--seconds nan is no time"),
        (["--seconds", "inf"], "--seconds inf is no time"),
        (["--seconds", "1e300"], "--timeout 900 is over before --seconds 1e+300 of timing"),
        (["--seconds", "many"], "Invalid value for '--seconds'"),
        (["--timeout", "-1"], "--timeout -1 is no limit"),
        (["--timeout", "nan"], "--timeout nan is no limit"),
        (["--timeout", "inf"], "or 0 for no limit"),
        (["--timeout", "1", "--seconds", "1"], "--timeout 1 is over before --seconds 1 of timing"),
        (["--gate", "profitt"], "did you mean 'profit'"),
        (["--plot"], "--plot needs --out FOLDER"),
        (["--only", "x*"], "no problem matches --only 'x*'"),
        (["--device", "cuda:99"], "no"),
        (["--out", "FILE"], "is a file. Give a folder"),
        (["--out", "FILE/below"], "cannot be written (Not a directory). Give another folder"),
        (["--out", "/proc/self"], "cannot be written ("),
        (["FILE"], "is not a Python file (.py)"),
        (["EMPTY"], "has no problems: no Python file (.py) is in it"),
        (["ABSENT"], "is neither a file nor a folder"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_runs(tmp_path: Path, options: list[str], message: str) -> None:
    (tmp_path / "FILE").write_text("")
    (tmp_path / "EMPTY").mkdir()
    _source(tmp_path / "p", "problem", f"open({str(tmp_path / 'ran')!r}, 'w')")
    named = [o if o.islower() or o[0] in "-/" or o[0].isdigit() else str(tmp_path / o) for o in options]
    done = _bench(tmp_path / "p", *named)
    assert done.exit_code == 2, done.output
    assert message in " ".join(done.output.replace("│", "").split())
    assert isinstance(done.exception, SystemExit)
    assert not (tmp_path / "ran").exists()


def test_the_exit_code_says_whose_fault_it_was(tmp_path: Path) -> None:
    model = _write(tmp_path / "p", "model").read_text()
    _source(tmp_path / "p", "a_no_inputs", model.replace("def get_inputs", "def other"))
    done = _bench(tmp_path / "p", "--only", "p/a*", "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert "a_no_inputs.py has no get_inputs. A KernelBench problem defines Model, get_inputs" in done.output
    assert json.loads(next((tmp_path / "out").glob("*.json")).read_text())["rows"][0]["failed"] == "problem"
    by_akg = "\nimport akg_dynamo.compiler, os\nakg_dynamo.compiler.solve = lambda *a, **k: os._exit(7)\n"
    _source(tmp_path / "p", "b_dies", model + by_akg)
    done = _bench(tmp_path / "p", "--only", "p/[ab]*", "--json")
    assert done.exit_code == 1
    rows = json.loads(done.stdout)["rows"]
    assert [r["failed"] for r in rows] == ["problem", "akg"]
    assert rows[1]["error"] == "the worker process died (exit 7) while AKG was compiling, or in its first call"


def test_each_device_has_a_process_of_its_own(tmp_path: Path) -> None:
    """And each row comes with its problem's place, whoever measured it."""
    body = "import os, time; time.sleep(0.5); raise ValueError(f'in process {os.getpid()}')"
    paths = [_write(tmp_path / "p", f"problem_{i}", body) for i in range(6)]
    rows = _rows(paths, [Job("cpu", 0.05, inductor=False)] * 2)
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
    torn = table.line(Row("c", error="raised: a | b\nand more"), 1e9)
    assert torn.endswith(r"| raised: a \| b and more |")


def test_bad_input_is_named(tmp_path: Path) -> None:
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
