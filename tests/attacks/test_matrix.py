"""A run of the matrix keeps what it has, goes on where it stopped, and no entry ends it."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType

import pytest

from akg_dynamo.core.protection import Protection

from . import matrix
from .catalogue import Entry
from .trial import Trial

NAMES = ["own/cpp_calls_back", "own/expanded", "forges_result/stdout", "control/cpp_scratch"]


class _Judge:
    def __enter__(self) -> _Judge:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def wait_ready(self) -> None: ...

    def protection(self, device: str) -> Protection:
        return Protection()


class _Trials:
    """Stands for the judging; `raises`: by entry, what that ends with."""

    def __init__(self) -> None:
        self.tried: list[str] = []
        self.raises: dict[str, BaseException] = {}

    def __call__(self, judge: object, entry: Entry, device: str) -> Trial:
        self.tried.append(entry.name)
        if entry.name in self.raises:
            raise self.raises[entry.name]
        return Trial(entry.name, (), ("RIGHT",), f"in {matrix.HERE.parents[1]}/tests")


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> _Trials:
    found = _Trials()
    everything = {e.name: e for e in matrix.entries_for("cpu")}
    monkeypatch.setattr(matrix, "entries_for", lambda device: [everything[name] for name in NAMES])
    monkeypatch.setattr(matrix, "by_running", found)
    monkeypatch.setattr(matrix, "Judge", _Judge)
    return found


def names(path: Path) -> list[str]:
    return list(json.loads(path.read_text())["trials"])


def test_what_is_cut_short_is_gone_on_with(trials: _Trials, tmp_path: Path) -> None:
    path = tmp_path / "cpu.json"
    trials.raises[NAMES[2]] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        matrix.run("cpu", path)
    assert names(path) == NAMES[:2]
    assert not json.loads(path.read_text())["complete"]
    trials.raises.clear()
    matrix.run("cpu", path)
    assert trials.tried == [*NAMES[:3], *NAMES[2:]]
    assert names(path) == NAMES
    assert json.loads(path.read_text())["complete"]
    matrix.run("cpu", path)  # which is another one
    assert trials.tried[-4:] == NAMES
    assert json.loads(path.read_text())["trials"][NAMES[0]]["detail"] == "in ./tests"


def test_an_entry_that_raises_is_a_result_and_is_tried_again(trials: _Trials, tmp_path: Path) -> None:
    path = tmp_path / "cpu.json"
    trials.raises = {NAMES[1]: RuntimeError("two devices"), NAMES[3]: KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        matrix.run("cpu", path)
    raised = json.loads(path.read_text())["trials"][NAMES[1]]
    assert raised["run"] == ["RAISED"]
    assert raised["detail"] == "RuntimeError: two devices"
    trials.raises.clear()
    matrix.run("cpu", path)
    assert trials.tried[4:] == [NAMES[1], NAMES[3]]
    assert all(t["run"] == ["RIGHT"] for t in json.loads(path.read_text())["trials"].values())


def test_some_are_tried_again_and_the_others_keep_their_results(trials: _Trials, tmp_path: Path) -> None:
    path = tmp_path / "cpu.json"
    matrix.run("cpu", path)
    trials.raises[NAMES[0]] = RuntimeError("no")
    matrix.run("cpu", path, "own/cpp")
    found = json.loads(path.read_text())
    assert found["complete"]
    assert [t["run"] for t in found["trials"].values()] == [["RAISED"], ["RIGHT"], ["RIGHT"], ["RIGHT"]]


def test_what_is_not_as_it_should_be_is_named(trials: _Trials, tmp_path: Path) -> None:
    trials.raises[NAMES[1]] = RuntimeError("no device")
    matrix.run("cpu", tmp_path / "cpu.json")
    found = json.loads((tmp_path / "cpu.json").read_text())
    del found["trials"][NAMES[3]]
    found["trials"][NAMES[2]]["version"] = "another"
    text = matrix._section("cpu", found)
    assert "Judged right: own/cpp_calls_back (in ./tests)" in text
    assert f"Could not be tried: {NAMES[1]} (RuntimeError: no device)." in text
    assert f"Not tried there yet: {NAMES[3]}." in text
    assert "by 2 versions of the judge" in text
