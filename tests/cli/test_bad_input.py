"""Bad input: each one clear paragraph, exit code 2, and nothing that existed is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from akg_dynamo.cache.entry import Entry
from akg_dynamo.cache.store import Store
from akg_dynamo.cli import host
from akg_dynamo.cli.main import app
from akg_dynamo.core.errors import ToolchainError

GOOD = """
import torch

class Model(torch.nn.Module):
    def forward(self, x):
        return torch.relu(x) + 1

def get_init_inputs():
    return []

def get_inputs():
    return [torch.randn(4, 8)]
"""
FORWARD = "    def forward(self, x):\n        return torch.relu(x) + 1\n"


def akg(*args: object, **env: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from akg_dynamo.cli.main import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **env},
        check=False,
    )


def said(done: subprocess.CompletedProcess[str]) -> str:
    return " ".join(done.stderr.split())


CASES = {
    "no Model": (
        GOOD.replace("class Model", "class Net"),
        [],
        "has no class Model. It defines Net: choose one with --module.",
    ),
    "no module at all": ("x = 1\n", [], "has no class Model. It defines no torch.nn.Module."),
    "named module absent": (GOOD, ["--module", "Nte"], "has no 'Nte' (--module). It defines Model"),
    "inputs missing": (
        GOOD.replace("def get_inputs", "def other"),
        [],
        "no function get_inputs() that gives example inputs",
    ),
    "wrong arity": (
        GOOD.replace("[torch.randn(4, 8)]", "[torch.randn(4, 8), 1]"),
        [],
        "cannot be called with 2 inputs: too many positional arguments",
    ),
    "inputs not a list": (GOOD.replace("[torch.randn(4, 8)]", "3"), [], "returns a int; a list of inputs"),
    "get_inputs raises": (
        GOOD.replace("return [torch.randn(4, 8)]", "raise ValueError('no data')"),
        [],
        "get_inputs() in",
    ),
    "bad --input": (GOOD, ["--input", "f33[2]"], "--input 'f33[2]' is not understood"),
    "syntax error": ("def (:\n", [], "SyntaxError"),
    "import fails": ("import a_module_that_is_not_there\n" + GOOD, [], "a_module_that_is_not_there"),
    "constructor raises": (GOOD.replace("return []", "return [1, 2, 3]"), [], "cannot be constructed"),
    "forward raises": (
        GOOD.replace(FORWARD, "    def forward(self, x):\n        return x @ x\n"),
        [],
        "raises on its example inputs, without AKG: RuntimeError",
    ),
    "data-dependent control flow": (
        GOOD.replace(FORWARD, "    def forward(self, x):\n        return x + 1 if x.sum() > 0 else x\n"),
        [],
        "control flow or shapes depend on the data in a tensor at model.py:6",
    ),
    "no meta function": (
        GOOD.replace(
            "class Model",
            "@torch.library.custom_op('cliakg::opaque', mutates_args=())\n"
            "def opaque(x: torch.Tensor) -> torch.Tensor:\n    return x.clone()\n\nclass Model",
        ).replace("torch.relu(x) + 1", "opaque(x) + 1"),
        [],
        "register_fake",
    ),
    "unknown gate": (GOOD, ["--gate", "profitt"], "did you mean 'profit'"),
    "unknown dsl": (GOOD, ["--dsl", "fortran"], "dsl='fortran' is not known"),
    "unknown arch": (GOOD, ["--arch", "z80"], "arch='z80' is not known"),
    "absent device": (GOOD, ["--device", "cuda:99"], "--device cuda:99 cannot be used here"),
    "unknown option": (GOOD, ["--gaet", "profit"], "No such option"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input(tmp_path: Path, case: str) -> None:
    source, options, message = CASES[case]
    model = tmp_path / "model.py"
    model.write_text(source)
    earlier = {"model_generated.py": "# an earlier result\n", "report.md": "# an earlier report\n"}
    for name, text in earlier.items():
        (tmp_path / name).write_text(text)
    done = akg("optimize", model, *options, AKG_CACHE_DIR=str(tmp_path / "cache"))
    assert done.returncode == 2, done.stderr
    assert message in said(done)
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert {name: (tmp_path / name).read_text() for name in earlier} == earlier
    assert not list(tmp_path.glob(".akg-*"))


def test_no_such_file(tmp_path: Path) -> None:
    done = akg("optimize", tmp_path / "absent.py")
    assert done.returncode == 2
    assert "absent.py is not a file" in said(done)


def test_errors_as_json(tmp_path: Path) -> None:
    done = akg("optimize", tmp_path / "absent.py", "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["kind"] == "UserError"
    assert done.stderr == ""


def test_no_compiler(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(GOOD)
    done = akg("optimize", tmp_path / "model.py", PATH=str(tmp_path), CXX="")
    assert done.returncode == 2
    assert "no C++ compiler: none of g++, c++, clang++ is on PATH" in said(done)
    named = akg("optimize", tmp_path / "model.py", CXX="no-such-compiler")
    assert named.returncode == 2
    assert "CXX names 'no-such-compiler'" in said(named)


def test_a_compiler_that_fails(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(GOOD)
    broken = tmp_path / "broken-cc"
    broken.write_text("#!/bin/sh\necho 'internal compiler error' >&2\nexit 4\n")
    broken.chmod(0o755)
    done = akg("optimize", tmp_path / "model.py", CXX=str(broken))
    assert done.returncode == 2
    assert "fails on a small OpenMP program (exit code 4): internal compiler error" in said(done)


def test_an_output_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(GOOD)
    (tmp_path / "file").write_text("")
    done = akg("optimize", tmp_path / "model.py", "--out", tmp_path / "file" / "out", AKG_CACHE_DIR=str(tmp_path / "c"))
    assert done.returncode == 2
    assert "Choose another folder with --out" in said(done)


@pytest.mark.parametrize(
    "command", [["cache", "ls"], ["cache", "show", "x"], ["cache", "check"], ["cache", "export", "f"]]
)
def test_cache_commands_on_an_unusable_folder(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "file").write_text("")
    done = akg(*command, AKG_CACHE_DIR=str(tmp_path / "file"))
    assert done.returncode == 2
    assert "the kernel cache cannot be used" in said(done)
    assert "Traceback" not in done.stderr


def test_a_compiler_that_makes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "true")
    with pytest.raises(ToolchainError, match=r"makes nothing of a small program\. Set CXX"):
        host.require_compiler()


@pytest.mark.parametrize("name", [".", "absent/shows.py"])
def test_a_reproduction_that_cannot_be_written_is_no_judgement_lost(tmp_path: Path, name: str) -> None:
    (tmp_path / "task.py").write_text(GOOD)
    (tmp_path / "kernel.py").write_text(GOOD.replace("class Model", "class ModelNew"))
    arguments = ["verify", tmp_path / "task.py", tmp_path / "kernel.py", "--reproduce", tmp_path / name]
    done = CliRunner().invoke(app, list(map(str, arguments)))
    assert done.exit_code == 2
    assert f"--reproduce {tmp_path / name} cannot be written. Give a file" in done.stderr
    assert not done.stdout


def test_a_task_without_values_is_refused(tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text(GOOD.replace("torch.randn(4, 8)", "torch.empty(4, 8, device='meta')"))
    (tmp_path / "kernel.py").write_text(GOOD.replace("class Model", "class ModelNew"))
    done = CliRunner().invoke(app, ["verify", str(tmp_path / "task.py"), str(tmp_path / "kernel.py")])
    assert done.exit_code == 2
    assert "task.py puts inputs on the device meta, where there are no values" in done.stderr


def test_null_bytes_have_no_line(tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text(GOOD)
    (tmp_path / "null.py").write_text("x = 1\0\n")
    for names in (("null.py", "good.py"), ("good.py", "null.py")):
        done = CliRunner().invoke(app, ["verify", *(str(tmp_path / n) for n in names)])
        assert done.exit_code == 2
        assert "null.py: source code string cannot contain null bytes" in done.stderr


def test_an_empty_name_is_no_entry() -> None:
    store = Store()
    store.put(Entry("0" * 64, "text"))
    for command in ("show", "clear"):
        done = CliRunner().invoke(app, ["cache", command, ""])
        assert done.exit_code == 2
        assert "no entry's key starts with ''" in done.stderr
    assert store.get("0" * 64) is not None
    assert store.clear(["0" * 64]) == 1


def test_an_export_to_no_file_is_refused() -> None:
    done = CliRunner().invoke(app, ["cache", "export", ""])
    assert done.exit_code == 2
    assert "it is a folder. Give a file" in done.stderr


def test_doctor_says_what_is_missing(tmp_path: Path) -> None:
    done = akg("doctor", "--json", PATH=str(tmp_path), CXX="", AKG_CACHE_DIR=str(tmp_path / "cache"))
    assert done.returncode == 1
    assert "no C++ compiler" in json.loads(done.stdout)["missing"][0]
    well = akg("doctor", AKG_CACHE_DIR=str(tmp_path / "cache"))
    assert well.returncode == 0
    assert "C++ compiler" in well.stdout
    assert "what keeps a candidate that nobody trusts (cpu) from:" in well.stdout
    assert "and a kernel by rules, but for: processes without end" in well.stdout


def test_what_a_file_prints_is_no_part_of_the_json(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("print('{}')\n" + GOOD)
    done = CliRunner().invoke(app, ["explain", str(tmp_path / "model.py"), "--json"])
    assert json.loads(done.stdout)["operators"] == 2
    assert "{}" in done.stderr


@pytest.mark.parametrize("name", ["[", "[/b]", "[red]", ":smile:"])
def test_names_are_no_markup(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AKG_CACHE_DIR", str(tmp_path / f"x{name}"))
    done = CliRunner().invoke(app, ["cache", "ls"])
    assert done.exit_code == 0
    assert f"{tmp_path}/x{name}" in "".join(done.stdout.splitlines())
    done = CliRunner().invoke(app, ["explain", str(tmp_path / f"x{name}.py")])
    assert done.exit_code == 2
    assert f"{tmp_path}/x{name}.py is not a file" in done.stderr


def test_a_name_that_is_no_text_is_no_crash(tmp_path: Path) -> None:
    done = akg("explain", os.fsdecode(os.fsencode(tmp_path) + b"/x\xff.py"))
    assert done.returncode == 2
    assert r"x\udcff.py is not a file" in said(done)


def test_a_file_that_crashes_the_process_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("import ctypes\nctypes.string_at(0)\n")
    done = akg("explain", tmp_path / "model.py")
    assert done.returncode < 0
    assert f'File "{tmp_path / "model.py"}", line 2' in done.stderr


def test_a_cache_that_cannot_be_used_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = akg("cache", "ls", AKG_CACHE_DIR=str(tmp_path / "file"))
    assert said(done).count("cannot be used: ") == 2  # the cache cannot be used: the folder cannot
    assert "WARNING" not in done.stderr
