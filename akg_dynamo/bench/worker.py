"""One process on one device: reads problem paths, one per line, and answers each with a row as JSON.

python -m akg_dynamo.bench.worker '{"device": "cuda:0", "seconds": 1.0, "inductor": true, "dynamic": false}'
"""

from __future__ import annotations

import dataclasses
import gc
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import torch

from akg_dynamo.bench import clock, compare
from akg_dynamo.bench.problem import load, moved_bytes, name_of, tensors
from akg_dynamo.explanation import records


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


def measure(path: Path, job: Job) -> Row:
    """Check the values, then time: eager, Inductor and AKG interleaved."""
    torch._dynamo.reset()
    records.clear()
    device = torch.device(job.device)
    with torch.no_grad():
        problem = load(path, device)
        compiled: dict[str, Callable[..., object]] = {
            "akg": torch.compile(problem.model, backend="akg", dynamic=job.dynamic or None, options={"gate": job.gate})
        }
        if job.inductor:
            compiled["inductor"] = torch.compile(problem.model, backend="inductor", dynamic=job.dynamic or None)
        expected = problem.model(*problem.inputs)
        first_call_s: dict[str, float] = {}
        wrong: dict[str, str] = {}
        results: dict[str, object] = {}
        for who, call in compiled.items():
            start = time.perf_counter()
            results[who] = call(*problem.inputs)
            _settle(device)
            first_call_s[who] = time.perf_counter() - start
        truth = compare.exact(problem)
        for who, result in results.items():
            found = compare.difference(result, expected, truth)
            if found:
                wrong[who] = found
        size = moved_bytes(problem, tensors(expected))
        del truth, results, expected
        kernels, why_not = _explained()
        contenders: dict[str, Callable[..., object]] = {"eager": problem.model, **compiled}
        calls: dict[str, clock.Call] = {who: partial(f, *problem.inputs) for who, f in contenders.items()}
        call_us, device_us = _time(calls, device, job.seconds)
    return Row(name_of(path), size, "", wrong, call_us, device_us, first_call_s, kernels, why_not)


def _time(
    calls: dict[str, clock.Call], device: torch.device, seconds: float
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    if device.type != "cuda":
        rounds = clock.interleave(calls, seconds=seconds)
        return {k: list(v) for k, v in rounds.us.items()}, {}
    by_wall = clock.interleave(calls, seconds=seconds / 2, least=7, most=31)
    # A visit of 20 µs: one call of a large problem, a few of a small one.
    on_device = clock.interleave(calls, seconds=seconds / 2, most=51, timed=clock.DeviceClock(), visit_s=2e-5)
    return {k: list(v) for k, v in by_wall.us.items()}, {k: list(v) for k, v in on_device.us.items()}


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _explained() -> tuple[int, list[str]]:
    """How many kernels of AKG's are in the graphs since `records.clear()`, and why operators stayed with torch."""
    reports = records.all()
    left = {f"{n.target}: {n.why}" for r in reports for n in r.left}
    return sum(len(r.kernels) for r in reports), sorted(left)


def serve(job: Job, requests: TextIO, answers: TextIO) -> None:
    """Until the requests end. A problem that raises is a row with its error: the next one is measured all the same."""
    for line in requests:
        path = Path(line.strip())
        try:
            row = measure(path, job)
        except Exception as error:  # noqa: BLE001 - a problem is anybody's code: what it raises belongs in its row
            row = Row(name_of(path), error=f"{type(error).__name__}: {str(error)[:500]}")
        answers.write(json.dumps(dataclasses.asdict(row)) + "\n")
        answers.flush()
        gc.collect()
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.empty_cache()


def main() -> None:
    """What `python -m` runs. Problems may print: only rows go to the real stdout."""
    asked: dict[str, Any] = json.loads(sys.argv[1])
    answers, sys.stdout = sys.stdout, sys.stderr
    if asked["device"].startswith("cuda"):
        torch.cuda.set_device(asked["device"])
    serve(Job(**asked), sys.stdin, answers)


if __name__ == "__main__":
    main()
