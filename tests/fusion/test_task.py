"""Tasks: what we write runs with torch alone; what users write is read, or refused with the reason."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from graphs import CORRECT, CPU, capture

from akg_dynamo.core.errors import TaskError
from akg_dynamo.core.types import Subgraph
from akg_dynamo.fusion.extract import extract
from akg_dynamo.fusion.partition import plan
from akg_dynamo.fusion.reference import reference
from akg_dynamo.fusion.task import read_task, to_task

PLAIN = """
import torch
class Model(torch.nn.Module):
    def forward(self, x):
        return torch.relu(x)
def get_inputs():
    return [torch.ones(4)]
def get_init_inputs():
    return []
"""


def one(function: Callable[..., Any], *args: Any, **how: Any) -> Subgraph:
    (gm,) = capture(function, *args, **how)
    (cut,) = extract(gm, plan(gm, target=CPU, options=CORRECT))
    return cut.subgraph


def test_a_written_task_runs_alone(tmp_path: Path) -> None:
    task = to_task(one(lambda x, w: torch.softmax(x.t() * 2 + w, -1), torch.randn(8, 4), torch.randn(8)), "soft")
    file = tmp_path / "soft.py"
    check = "\nfor out in Model(*get_init_inputs())(*get_inputs()): print(tuple(out.shape))\nimport sys\n"
    check += "assert not any(m.startswith('akg') for m in sys.modules)\n"
    file.write_text(task.source + check)
    done = subprocess.run([sys.executable, "-S", "-c", _ALONE, file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(4, 8)"


_ALONE = f"""import sys
sys.path[:] = {[p for p in sys.path if "site-packages" in p or "lib/python" in p]!r}
exec(open(sys.argv[1]).read())
"""


def test_written_inputs_have_the_traced_layout_and_give_the_references_values() -> None:
    sub = one(
        lambda x, y: (x * 2 + y).sum(-1),
        torch.randn(8, 4).t(),
        torch.randn(1, 8).expand(4, 8).as_strided((4, 8), (0, 1)),
    )
    task = read_task(to_task(sub, "strided").source)
    (case,) = task.cases
    assert [t.stride() for t in case] == [s.stride for s in sub.inputs]
    torch.testing.assert_close(task.model()(*case), reference(sub)(*case))


def test_indices_are_in_range() -> None:
    sub = one(
        lambda w, i: torch.nn.functional.embedding(i.view(-1), w) * 2, torch.randn(5, 4), torch.randint(0, 5, (2, 3))
    )
    task = read_task(to_task(sub, "rows").source)
    (indices,) = [t for t in task.cases[0] if t.dtype == torch.int64]
    assert indices.max() < 5


def test_a_symbolic_task_has_several_sizes() -> None:
    sub = one(lambda x: (x * 2).softmax(-1), torch.randn(6, 10), dynamic=True)
    task = read_task(to_task(sub, "dyn").source)
    assert task.dynamic
    assert "get_inputs_dyn_list" in task.source
    shapes = {tuple(case[0].shape) for case in task.cases}
    assert (6, 10) in shapes
    assert len(shapes) > 1


def test_reads_files_and_init_inputs(tmp_path: Path) -> None:
    file = tmp_path / "scale.py"
    file.write_text(
        PLAIN.replace(
            "    def forward", "    def __init__(self, k, bias=0):\n        super().__init__()\n    def forward"
        ).replace("return []", "return [[3], {'bias': 1}]")
    )
    task = read_task(file)
    assert (task.name, task.init_args, task.init_kwargs) == ("scale", (3,), (("bias", 1),))
    assert not task.dynamic
    torch.testing.assert_close(task.model()(torch.tensor([-1.0, 2.0])), torch.tensor([0.0, 2.0]))


def test_reads_dynamic_files() -> None:
    text = PLAIN.replace(
        "def get_inputs():\n    return [torch.ones(4)]",
        "def get_inputs_dyn_list():\n    return [[torch.ones(4)], [torch.ones(7)]]",
    )
    task = read_task(text)
    assert task.dynamic
    assert [c[0].shape[0] for c in task.cases] == [4, 7]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("class Model", "class Other"), "no class Model"),
        (("def get_inputs", "def make_inputs"), r"no get_inputs\(\)"),
        (("return [torch.ones(4)]", "return [torch.ones(4), 1]"), "does not take the 2 inputs"),
        (("return [torch.ones(4)]", "return torch.ones(4)"), "must return a list"),
        (("return torch.relu(x)", "raise RuntimeError('odd')"), r":5: forward\(\) raised RuntimeError: odd"),
        (("return []", "return [1, 2]"), r"Model\(\) raised TypeError: .* takes 1 positional argument"),
        (("def forward(self, x):", "def forward(self, x)"), r"<task>:4: "),
        (("import torch\n", "import torch_nowhere\n"), r"<task>:2: running the file raised ModuleNotFoundError"),
        (("class Model(torch.nn.Module)", "class Model"), "not a torch.nn.Module"),
        (("    return [torch.ones(4)]", "    return 1 / 0"), r":7: get_inputs\(\) raised ZeroDivisionError"),
    ],
)
def test_what_is_wrong_is_said(change: tuple[str, str], message: str) -> None:
    text = PLAIN.replace(*change)
    assert text != PLAIN
    with pytest.raises(TaskError, match=message):
        read_task(text)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="no file"):
        read_task(tmp_path / "nothing.py")
