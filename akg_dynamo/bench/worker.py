"""One process on one device: is sent the paths of problems, and answers each with a row as JSON.

Nothing of the problems, who may print, read the standard input and start processes, is on that channel. Started by
`run` as ``python -m akg_dynamo.bench.worker JOB CHANNEL PROGRESS PARENT``: the job as JSON, two descriptors, a process.
"""

from __future__ import annotations

import dataclasses
import faulthandler
import gc
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from akg_dynamo.bench import clock, compare
from akg_dynamo.bench.problem import load, moved_bytes, name_of, tensors
from akg_dynamo.bench.progress import Progress
from akg_dynamo.core.errors import UserError
from akg_dynamo.core.lifetime import die_with_parent
from akg_dynamo.explanation import records

READY = b"ready"
"""What a worker says before it is asked anything: what it takes to start is not the problem's time."""


@dataclass(frozen=True)
class Job:
    """How to measure. `seconds` of timing a problem; `gate` is AKG's."""

    device: str
    seconds: float = 1.0
    inductor: bool = True
    dynamic: bool = False
    gate: str = "profit"


@dataclass(frozen=True)
class Row:
    """One problem's result, in microseconds per call by contender and round.

    wrong: by contender, what was wrong with its values (Inductor's and AKG's alike; a wrong contender is still timed).
    device_us is empty on the CPU, where the call's time is all there is. kernels: how many of AKG's ran.
    error: why nothing was measured; failed: whose turn it was then, "problem" (while it was loaded) or a contender.
    """

    name: str
    bytes: int = 0
    error: str = ""
    wrong: dict[str, str] = field(default_factory=dict)
    call_us: dict[str, list[float]] = field(default_factory=dict)
    device_us: dict[str, list[float]] = field(default_factory=dict)
    first_call_s: dict[str, float] = field(default_factory=dict)
    kernels: int = 0
    why_not: list[str] = field(default_factory=list)
    failed: str = ""


def measure(path: Path, job: Job, progress: Progress) -> Row:
    """Check the values, then time: eager, Inductor and AKG interleaved."""
    torch._dynamo.reset()
    records.clear()
    device = torch.device(job.device)
    with torch.no_grad():
        progress.now("problem", "being loaded")
        problem = load(path, device)
        compiled: dict[str, Callable[..., object]] = {
            "akg": torch.compile(problem.model, backend="akg", dynamic=job.dynamic or None, options={"gate": job.gate})
        }
        if job.inductor:
            compiled["inductor"] = torch.compile(problem.model, backend="inductor", dynamic=job.dynamic or None)
        progress.now("eager", "in its first call")
        expected = problem.model(*problem.inputs)
        _settle(device)
        first_call_s: dict[str, float] = {}
        wrong: dict[str, str] = {}
        results: dict[str, object] = {}
        for who, call in compiled.items():
            progress.now(who, "compiling, or in its first call")
            start = time.perf_counter()
            results[who] = call(*problem.inputs)
            _settle(device)
            first_call_s[who] = time.perf_counter() - start
        progress.now("eager", "being run in fp64")
        truth = compare.exact(problem)
        for who, result in results.items():
            progress.now(who, "being compared with eager")
            found = compare.difference(result, expected, truth)
            if found:
                wrong[who] = found
        size = moved_bytes(problem, tensors(expected))
        del truth, results, expected
        kernels, why_not = _explained()
        contenders: dict[str, Callable[..., object]] = {"eager": problem.model, **compiled}
        calls: dict[str, clock.Call] = {who: partial(f, *problem.inputs) for who, f in contenders.items()}
        call_us, device_us = _time(calls, device, job.seconds, progress)
    return Row(name_of(path), size, "", wrong, call_us, device_us, first_call_s, kernels, why_not)


def _time(
    calls: dict[str, clock.Call], device: torch.device, seconds: float, progress: Progress
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    def visiting(who: str) -> None:
        progress.now(who, "being timed")

    if device.type != "cuda":
        rounds = clock.interleave(calls, seconds=seconds, visiting=visiting)
        return {k: list(v) for k, v in rounds.us.items()}, {}
    by_wall = clock.interleave(calls, seconds=seconds / 2, least=7, most=31, visiting=visiting)
    # A visit of 20 µs: one call of a large problem, a few of a small one.
    on_device = clock.interleave(
        calls, seconds=seconds / 2, most=51, timed=clock.DeviceClock(), visit_s=2e-5, visiting=visiting
    )
    return {k: list(v) for k, v in by_wall.us.items()}, {k: list(v) for k, v in on_device.us.items()}


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _explained() -> tuple[int, list[str]]:
    """How many kernels of AKG's are in the graphs since `records.clear()`, and why operators stayed with torch."""
    reports = records.all()
    left = {f"{n.target}: {n.why}" for r in reports for n in r.left}
    return sum(len(r.kernels) for r in reports), sorted(left)


def serve(job: Job, channel: Connection, progress: Progress) -> None:
    """Until nobody can ask any more. A problem that raises is a row with its error: the next one is measured all the
    same.
    """
    channel.send_bytes(READY)
    while True:
        try:
            path = Path(os.fsdecode(channel.recv_bytes()))
        except EOFError:
            return
        try:
            row = measure(path, job, progress)
        except UserError as error:
            row = Row(name_of(path), error=str(error), failed=progress.who)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a problem is anybody's code: what it raises is its row's
            said = f"{type(error).__name__}: {str(error)[:500]}"
            row = Row(name_of(path), error=f"raised while {progress}: {said}", failed=progress.who)
        channel.send_bytes(json.dumps(dataclasses.asdict(row)).encode())
        gc.collect()
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.empty_cache()


def main() -> None:
    """What `python -m` runs."""
    asked, channel, progress, parent = sys.argv[1:]
    # In a session of its own, no signal of a terminal ends it: it ends with who asks, also amid a problem that hangs.
    faulthandler.enable()
    die_with_parent(int(parent))
    job: dict[str, Any] = json.loads(asked)
    if job["device"].startswith("cuda"):
        torch.cuda.set_device(job["device"])
    for fd in (int(channel), int(progress)):
        os.set_inheritable(fd, False)  # by what problems start
    serve(Job(**job), Connection(int(channel)), Progress(int(progress)))


if __name__ == "__main__":
    main()
