"""akg optimize on real files, kernels and all: what is written stands alone, and what was there is kept."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from akg_dynamo import options
from akg_dynamo.cli import optimize
from akg_dynamo.cli.output import Output
from akg_dynamo.core.errors import UserError
from akg_dynamo.report.markdown import Optimized

KERNELBENCH = """
import torch
from torch import nn

class RMSNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width))

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight

class Model(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norms = nn.ModuleList([RMSNorm(width), RMSNorm(width)])
        self.linear = nn.Linear(width, width)

    def forward(self, x):
        x = self.norms[0](x)
        return torch.softmax(self.norms[1](self.linear(x)) + x, -1)

def get_init_inputs():
    return [48]

def get_inputs():
    return [torch.randn(6, 48)]
"""

ALONE = """
import json, sys
sys.modules["akg_dynamo"] = None  # importing it raises
import torch, {name}_generated as g
torch.manual_seed(0)
new = g.ModelNew(48).eval()
old = g.Model(48).eval()
old.load_state_dict(new.state_dict())
x = torch.randn(6, 48)
with torch.no_grad():
    torch.testing.assert_close(new(x), old(x))
    torch.testing.assert_close(new(x[:2]), old(x[:2]))
print(json.dumps([k.__module__ for k in g.ModelNew.KERNELS]))
"""


def run(path: Path, cache: Path, *specs: str, gate: str = "correct", **request: str) -> Optimized:
    chosen = options.parse({"gate": gate, "cache_dir": str(cache)})
    made = optimize.Request(path, request.get("module"), request.get("inputs"), specs, None, chosen)
    return optimize.run(made, Output(as_json=True))


def alone(folder: Path, code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, cwd=folder, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def test_a_kernelbench_file(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "block.py"
    path.write_text(KERNELBENCH)
    (tmp_path / "block_generated.py").write_text("# what the user had\n")
    (tmp_path / "backup").mkdir()
    (tmp_path / "backup" / "block_generated.py").write_text("# from before that\n")
    done = run(path, cache)
    assert len(done.kernels) >= 2
    assert done.end_to_end.error < 1e-4
    assert path.read_text() == KERNELBENCH
    modules = json.loads(alone(tmp_path, ALONE.format(name="block")))
    assert sorted(f"{m}.py" for m in modules) == sorted(set(done.written) - {"block_generated.py"})
    assert any("rms_norm" in m for m in modules)
    assert done.replaced == ("block_generated.py",)
    assert (tmp_path / "backup" / "block_generated.py").read_text() == "# from before that\n"
    assert (tmp_path / "backup" / "block_generated.py.1").read_text() == "# what the user had\n"
    report = (tmp_path / "report.md").read_text()
    assert "kept in `backup/`: block_generated.py" in report
    assert all(f"| {k.op} |" in report for k in done.kernels)
    assert not list(tmp_path.glob(".akg-*"))


def test_any_module_with_inputs_from_the_command_line(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "net.py"
    # names that the kernels would like to have are the user's: `Softmax`, `softmax`
    path.write_text(
        "import torch\n\nclass Softmax(torch.nn.Module):\n    def forward(self, x, y):\n"
        "        return softmax(x * 2 + y), (x > y)\n\ndef softmax(x):\n    return torch.softmax(x, -1)\n\n"
        "net = Softmax()\n"
    )
    done = run(path, cache, "f32[5,33]", "f32[33]", module="net")
    assert done.kernels
    code = """
import torch, net_generated as g
assert issubclass(g.Softmax, torch.nn.Module) and g.softmax.__module__ == "net_generated"
x, y = torch.randn(5, 33), torch.randn(33)
new = g.ModelNew.from_model(g.Softmax())
torch.testing.assert_close(new(x, y), g.Softmax()(x, y))
"""
    alone(tmp_path, code)


ELEMENTWISE = """
import torch

class Model(torch.nn.Module):
    def forward(self, x):
        return torch.softmax(x * {factor}, -1)

def get_inputs():
    return [torch.randn({rows}, 33)]
"""


def test_models_of_two_folders_in_one_process(tmp_path: Path, cache: Path) -> None:
    """Their kernels have the same names and other sizes, which a kernel's function does not check."""
    for name, factor, rows in (("one", 2, 40), ("two", 3, 50)):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.py").write_text(ELEMENTWISE.format(factor=factor, rows=rows))
        assert len(run(tmp_path / name / f"{name}.py", cache).kernels) == 1
    assert sorted(p.name for p in (tmp_path / "one").glob("*_generated.py") if p.stem != "one_generated") == sorted(
        p.name for p in (tmp_path / "two").glob("*_generated.py") if p.stem != "two_generated"
    )
    code = """
import sys, torch
sys.path[:0] = ["one", "two"]
import one_generated, two_generated
for module, rows in ((one_generated, 40), (two_generated, 50)) * 2:
    x = torch.randn(rows, 33)
    torch.testing.assert_close(module.ModelNew()(x), module.Model()(x))
    assert module.ModelNew.KERNELS
assert sys.path[:2] == ["one", "two"]
"""
    alone(tmp_path, code)


def test_models_in_one_folder_keep_their_kernels(tmp_path: Path, cache: Path) -> None:
    # the first one's kernel would like the name of the model's own file, and so would the others'
    factors = {"mul_softmax": 4, "one": 2, "two": 3}
    for name, factor in factors.items():
        (tmp_path / f"{name}.py").write_text(ELEMENTWISE.format(factor=factor, rows=40))
    written = {name: run(tmp_path / f"{name}.py", cache).written for name in factors}
    assert len({file for files in written.values() for file in files}) == 6
    assert written["two"] == run(tmp_path / "two.py", cache).written
    code = """
import importlib, torch
for name in ("mul_softmax", "one", "two"):
    module, x = importlib.import_module(f"{name}_generated"), torch.randn(40, 33)
    torch.testing.assert_close(module.ModelNew()(x), module.Model()(x))
    assert module.ModelNew.KERNELS
"""
    alone(tmp_path, code)


def test_a_model_may_not_take_the_name_of_a_kernel(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "one.py").write_text(ELEMENTWISE.format(factor=2, rows=40))
    kernel, model = run(tmp_path / "one.py", cache).written
    assert model == "one_generated.py"
    other = tmp_path / f"{kernel.removesuffix('_generated.py')}.py"
    other.write_text(ELEMENTWISE.format(factor=2, rows=40))
    with pytest.raises(UserError, match=r"is a kernel that one_generated.py imports.*--out"):
        run(other, cache)
    (tmp_path / "one_generated.py").unlink()
    assert len(run(other, cache).kernels) == 1


def test_a_wrong_index_raises_what_the_original_raises(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "words.py"
    path.write_text(
        "import torch\n\nclass Model(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.table = torch.nn.Embedding(20, 16)\n        self.register_buffer('calls', torch.zeros(()))\n\n"
        "    def forward(self, index):\n        self.calls += 1\n        return torch.tanh(self.table(index)) * 2\n\n"
        "def get_inputs():\n    return [torch.arange(12)]\n"
    )
    assert any("embedding" in k.op for k in run(path, cache).kernels)
    code = """
import torch, words_generated as g
old = g.Model()
new = g.ModelNew.from_model(old)
with torch.no_grad():
    torch.testing.assert_close(new(torch.arange(12)), old(torch.arange(12)))
    said = []
    for model in (old, new):
        try:
            model(torch.arange(12) + 9)
        except IndexError as error:
            said.append(str(error))
    assert said == ["index out of range in self"] * 2, said
    torch.testing.assert_close(new(torch.arange(12)), old(torch.arange(12)))
"""
    alone(tmp_path, code)


def test_nothing_to_win_is_the_original_forward(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "product.py"
    path.write_text(
        "import torch\n\nclass Model(torch.nn.Module):\n    def forward(self, a, b):\n        return a @ b\n\n"
        "def example():\n    return {'a': torch.randn(4, 8), 'b': torch.randn(8, 4)}\n"
    )
    done = run(path, cache, inputs="example")
    assert done.kernels == ()
    assert done.written == ("product_generated.py",)
    assert "forward is the original one" in (tmp_path / "report.md").read_text()
    alone(tmp_path, "import product_generated as g; assert g.ModelNew.forward is g.Model.forward")


def test_a_cache_that_cannot_be_used_costs_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "small.py"
    path.write_text(
        "import torch\n\nclass Model(torch.nn.Module):\n    def forward(self, a):\n"
        "        return torch.tanh(a) * a + 1\n\n"
        "def get_inputs():\n    return [torch.randn(32, 8)]\n"
    )
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        done = run(path, tmp_path / "file")
    assert len(done.kernels) == 1
    assert [r.message for r in caplog.records if "kernel cache cannot be used" in r.message] != []


def test_a_wrong_file_replaces_nothing(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from akg_dynamo.core.errors import JudgeError

    path = tmp_path / "block.py"
    path.write_text(KERNELBENCH)
    (tmp_path / "block_generated.py").write_text("# what the user had\n")
    right = optimize.integrate.write
    monkeypatch.setattr(
        optimize.integrate,
        "write",
        lambda *a, **k: right(*a, **k) + "\n    forward = lambda self, x: Model.forward(self, x) * 1.5\n",
    )
    with pytest.raises(JudgeError, match="does not compute what"):
        run(path, cache)
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "__pycache__") == ["block.py", "block_generated.py"]
    assert (tmp_path / "block_generated.py").read_text() == "# what the user had\n"


def test_a_pipe_gets_no_progress(tmp_path: Path) -> None:
    out = Output(as_json=False)
    out.progress = Console(file=(tmp_path / "stderr").open("w"))
    with out.step("working"):
        pass
    out.progress.file.close()
    assert (tmp_path / "stderr").read_text() == ""
