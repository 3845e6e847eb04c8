"""Tries entries of the catalogue on the judge: by reading only, by running only, and as `akg verify` does."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from akg_dynamo.agents.verifier import Judge, kernelbench, reading
from akg_dynamo.core.types import Outcome, Verdict
from akg_dynamo.fusion.task import read_task

from .catalogue import Entry


@dataclass(frozen=True)
class Trial:
    """What came of one entry. read, run: what either way found, as names; `detail`: what the judge said of the run."""

    name: str
    read: tuple[str, ...]
    run: tuple[str, ...]
    detail: str = ""

    def caught(self, entry: Entry, by: str) -> bool:
        """Whether reading ("read") or running ("run") named what an attack tried."""
        return bool(entry.expects & set(self.read if by == "read" else self.run))

    @property
    def passed(self) -> bool:
        """Whether a control passed."""
        return not self.read and self.run == ("RIGHT",)


def by_reading(entry: Entry) -> tuple[str, ...]:
    """The tricks that are found without running anything."""
    return tuple(t.name for t in reading.tricks(reading.read(entry.source, entry.dsl)))


def verdict(judge: Judge, entry: Entry, screens: frozenset[str], device: str = "cpu") -> Verdict:
    """The judge's."""
    task = read_task(entry.task)
    if device != "cpu":
        move = torch.utils._pytree.tree_map_only
        task = replace(task, cases=move(torch.Tensor, lambda t: t.to(device), task.cases))
    options = {"timeout_s": 30.0, "build_timeout_s": 60.0, **dict(entry.limits)}
    job = kernelbench.job(
        task, entry.source, dsl=entry.dsl, name=entry.path.stem, screens=screens, want_timing=entry.timing, **options
    )
    return kernelbench.judged(judge, job)


def by_running(judge: Judge, entry: Entry, device: str = "cpu") -> Trial:
    """One entry, the screen that reads being off. A kernel that is right and not faster has gained nothing: "RIGHT"."""
    found = verdict(judge, entry, frozenset({"running"}), device)
    names = (found.outcome.name, *(t.name for t in found.tricks))
    if found.outcome is Outcome.RIGHT and entry.row and found.timing is not None and found.timing.wins():
        names = ("WON",)
    return Trial(entry.name, by_reading(entry), names, found.detail)
