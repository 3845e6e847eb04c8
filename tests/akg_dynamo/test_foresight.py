"""When the judge and the builders start: before they are needed, and never for what the cache has."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from akg_dynamo import capture, compiler, foresight
from akg_dynamo.agents import verifier
from akg_dynamo.agents.coder import builders
from akg_dynamo.backend import akg
from akg_dynamo.cache.store import Store
from akg_dynamo.core.errors import ToolchainError
from akg_dynamo.options import Options


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """What happens, in order, in a process that has used a GPU."""
    found: list[str] = []
    monkeypatch.setenv("AKG_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(compiler, "_stores", {})
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(verifier, "foresee", lambda: found.append("judge"))
    monkeypatch.setattr(builders, "start", lambda: found.append("builders"))
    monkeypatch.setattr(capture, "compile_dynamo_graph", lambda *_: found.append("traced"))
    return found


def graph(scale: float) -> torch.fx.GraphModule:
    return torch.fx.symbolic_trace(lambda x: x * scale)


def used(folder: Path) -> Options:
    Store(folder).open_or_raise()
    return Options(cache_dir=folder)


def test_naming_the_backend_starts_them_if_there_will_surely_be_something_to_make(
    started: list[str], tmp_path: Path
) -> None:
    foresight.backend_named()
    assert started == ["judge", "builders"]
    used(tmp_path)
    foresight.backend_named()
    assert started == ["judge", "builders"], "not once more: something is in the cache, perhaps all"


def test_a_graph_that_was_seen_starts_nothing(started: list[str]) -> None:
    x = torch.ones(4)
    for _ in range(2):
        akg(graph(2.0), [x])
    assert started == ["judge", "builders", "traced", "traced"]


@pytest.mark.parametrize(
    ("other", "inputs"), [(3.0, [torch.ones(4)]), (2.0, [torch.ones(5)]), (2.0, [torch.ones(4).double()])]
)
def test_another_graph_is_another(started: list[str], other: float, inputs: list[torch.Tensor]) -> None:
    akg(graph(2.0), [torch.ones(4)])
    started.clear()
    akg(graph(other), inputs)
    assert started == ["judge", "builders", "traced"]


def test_options_make_another_graph(started: list[str]) -> None:
    akg(graph(2.0), [torch.ones(4)])
    started.clear()
    akg(graph(2.0), [torch.ones(4)], options={"numerics": "eager"})
    assert started[0] == "judge"


def test_what_is_never_generated_starts_nothing(started: list[str]) -> None:
    akg(graph(2.0), [torch.ones(4)], options={"generation": "cached"})
    assert started == ["traced"]


def test_a_graph_that_could_not_be_compiled_has_not_been_seen(
    started: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise ToolchainError("no")

    monkeypatch.setattr(capture, "compile_dynamo_graph", fails)
    for _ in range(2):
        with pytest.raises(ToolchainError):
            akg(graph(2.0), [torch.ones(4)])
    assert started == ["judge", "builders"] * 2


def test_on_a_cpu_nothing_starts(started: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    foresight.backend_named()
    akg(graph(2.0), [torch.ones(4)])
    assert started == ["traced"]
    assert not list(tmp_path.iterdir())


def test_a_judge_that_cannot_be_started_early_is_no_error(started: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def no_process() -> None:
        raise OSError("no more processes")

    monkeypatch.setattr(verifier, "foresee", no_process)
    akg(graph(2.0), [torch.ones(4)])
    assert started == ["traced"]


def test_a_cache_that_is_cleared_forgets_the_graphs(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.add_graph("one")
    assert store.has_graph("one")
    store.clear()
    assert not store.has_graph("one")
    assert store.is_new


def test_a_cache_that_cannot_be_written_remembers_no_graph(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / "file")
    store.add_graph("one")
    assert not store.has_graph("one")
