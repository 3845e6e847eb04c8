"""Processes for a device: kept from everything, or, where it does not start under that, from as much as can be.

There is no device here: what stands for it starts wherever it can do what it needs.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from akg_dynamo.agents.verifier import Judge, shut_down
from akg_dynamo.agents.verifier import judge as judge_module
from akg_dynamo.agents.verifier.referee import _RUNGS, Referee
from akg_dynamo.agents.verifier.sandbox import landlock
from akg_dynamo.agents.verifier.workers import Failed
from akg_dynamo.core.types import Outcome

CALLS, READING, WRITING = "tracing, mounting, keys, kernel interfaces", "reading the user's files", "writing files"


def _has_landlock() -> bool:
    try:
        return landlock.version() > 0
    except OSError:
        return False


_ZYGOTE = """
import os, socket, tempfile
from akg_dynamo.agents.verifier import worker, zygote

def warm(self, message, blob):
    {needs}
    return {{}}

worker._Worker._warm = warm
zygote.main()
"""
NEEDS = {
    "nothing": ("pass", set()),
    "files of the user": ("os.listdir({folder!r})", {READING}),
    "files for others": ("tempfile.TemporaryDirectory(dir='/dev/shm').cleanup()", {READING, WRITING}),
    "the network": ("socket.socket(socket.AF_INET).close()", {READING, WRITING, CALLS}),
    "what is nowhere": ("open('/sys/no such device')", set()),
}


def _starting(code: str) -> SimpleNamespace:
    """`subprocess`, in which Python runs that code in place of the zygote's module."""

    def start(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        python, switch, name, *rest = command
        assert (switch, name) == ("-m", "akg_dynamo.agents.verifier.zygote")
        return subprocess.Popen([python, "-c", code, *rest], **options)

    return SimpleNamespace(**{**vars(subprocess), "Popen": start})


@pytest.fixture
def own_judge() -> Iterator[None]:
    shut_down()
    yield
    shut_down()


@pytest.mark.skipif(not _has_landlock() or torch.cuda.is_available(), reason="needs Landlock, and no device")
@pytest.mark.parametrize("is_warm", [False, True])
@pytest.mark.parametrize("needs", NEEDS)
def test_a_worker_does_without_no_more_than_the_device_needs(
    own_judge: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, needs: str, is_warm: bool
) -> None:
    does, open_to_it = NEEDS[needs]
    code = _ZYGOTE.format(needs=does.format(folder=str(tmp_path)))
    monkeypatch.setattr(judge_module, "subprocess", _starting(code))
    with Judge(keep_warm=False) as one:
        if is_warm:
            one.warm("cuda")
        for trusted in (True, False):
            found = one.protection("cuda", trusted=trusted)
            gaps = {m.against for m in found.measures if not m.how}
            assert gaps & {READING, WRITING, CALLS} == open_to_it, (trusted, found)
            said = {m.gap for m in found.measures if m.against in open_to_it}
            assert all("CUDA does not start under it" in gap for gap in said)
            assert found["secrets in the environment"].how
            if not open_to_it and trusted:
                assert "and the built kernels" in str(found[WRITING])


@dataclass
class _Worker:
    """One whose device starts under `works` and whatever is less."""

    without: tuple[str, ...]
    trusted: bool
    works: int
    answer: dict[str, Any] = field(default_factory=lambda: {"error": "no"})
    alive: bool = True
    asked: int = 0

    @property
    def confinement(self) -> SimpleNamespace:
        return SimpleNamespace(device="cuda", trusted=self.trusted)

    def tell(self, message: dict[str, Any]) -> None:
        assert message["op"] == "warm"

    def told(self, timeout_s: float) -> dict[str, Any]:
        self.asked += 1
        rung = _RUNGS.index(self.without)
        if rung == 1:
            raise Failed(Outcome.CRASHED, "killed by SIGSYS")
        return {} if rung >= self.works else self.answer

    def end(self) -> None:
        self.alive = False


class _Workers:
    def __init__(self, works: int, **about: Any) -> None:
        self.works, self.about = works, about
        self.started: list[_Worker] = []

    def start(self, device: str, *, trusted: bool, without: tuple[str, ...] = (), **rest: Any) -> _Worker:
        assert bool(rest["shared"]) == trusted == (not rest["cpu_s"])
        self.started.append(_Worker(without, trusted, self.works, **self.about))
        return self.started[-1]


def referee(workers: _Workers, tmp_path: Path) -> Referee:
    return Referee(workers, str(tmp_path))  # type: ignore[arg-type]


@pytest.mark.parametrize("works", [0, 2, len(_RUNGS) - 1])
def test_what_was_found_out_once_is_known(works: int, tmp_path: Path) -> None:
    workers = _Workers(works)
    judge = referee(workers, tmp_path)
    for trusted in (True, False):
        workers.started.clear()
        worker = judge._started(judge._start("cuda", trusted=trusted))
        assert [w.without for w in workers.started] == list(_RUNGS[: works + 1])
        assert [w.alive for w in workers.started] == [False] * works + [True]
        assert worker is workers.started[-1]  # type: ignore[comparison-overlap]
        again = judge._started(judge._start("cuda", trusted=trusted))
        assert again is workers.started[-1]  # type: ignore[comparison-overlap]
        assert workers.started[-1].without == _RUNGS[works]
        assert workers.started[-1].asked == 0  # nobody waits for its context but who needs it


def test_nobody_waits_for_a_context_before_it_is_needed(tmp_path: Path) -> None:
    workers = _Workers(0)
    judge = referee(workers, tmp_path)
    judge.warm_up_device(0)
    assert [w.asked for w in workers.started] == [0]
    judge._warm("cuda")
    judge._warm("cuda")
    assert [w.asked for w in workers.started] == [1]


def test_where_nothing_helps_all_measures_are_kept_and_it_is_not_tried_again(tmp_path: Path) -> None:
    workers = _Workers(len(_RUNGS))
    judge = referee(workers, tmp_path)
    last = judge._warm("cuda")
    assert [w.without for w in workers.started] == [*_RUNGS, ()]
    assert not any(w.alive for w in workers.started[:-1])
    assert last.alive  # it says why, when it is asked for more
    last.end()
    judge._warm("cuda")
    assert [w.without for w in workers.started] == [*_RUNGS, (), ()]


def test_a_device_whose_memory_is_full_has_started(tmp_path: Path) -> None:
    workers = _Workers(len(_RUNGS), answer={"error": "no", "no_memory": True})
    referee(workers, tmp_path)._warm("cuda")
    assert [w.without for w in workers.started] == [()]
