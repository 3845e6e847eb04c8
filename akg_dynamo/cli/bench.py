"""`akg bench`: measure folders of problems, print and keep what was found."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import math
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from akg_dynamo.bench import run as runner
from akg_dynamo.bench import table
from akg_dynamo.bench.clock import copy_bandwidth
from akg_dynamo.bench.problem import find
from akg_dynamo.bench.worker import Job, Row
from akg_dynamo.cli.output import CANNOT, INTERRUPTED, NO, Output
from akg_dynamo.cli.results import Results
from akg_dynamo.core.errors import EnvironmentFault, UserError


@dataclass(frozen=True)
class Request:
    """What was asked for. timeout: seconds for each problem, 0 for as long as it takes."""

    folders: tuple[Path, ...]
    only: str
    device: str
    seconds: float
    inductor: bool
    dynamic: bool
    gate: str
    out: Path | None
    plot: bool
    timeout: float


@dataclass(frozen=True)
class Done:
    """What was measured, and where it was written.

    asked: of how many problems. cut_short: what ended it before all were measured.
    trouble: what could not be written.
    """

    rows: tuple[Row, ...]
    about: dict[str, object]
    bandwidth: float
    summary: table.Summary
    written: tuple[Path, ...]
    asked: int
    cut_short: str
    interrupted: bool
    trouble: str

    @property
    def exit_code(self) -> int:
        """Whether AKG was wrong, or else whether something kept problems from being measured."""
        if self.interrupted:
            return INTERRUPTED
        if any("akg" in row.wrong or row.failed == "akg" for row in self.rows):
            return NO
        return CANNOT if self.cut_short or self.trouble or any(row.error for row in self.rows) else 0

    def as_json(self) -> dict[str, object]:
        """Everything, raw times included."""
        return {
            "environment": self.about,
            "copy_bandwidth_bytes_per_s": self.bandwidth,
            "summary": {
                "problems": self.summary.problems,
                "right": self.summary.right,
                "geometric_mean_over": dict(self.summary.over),
                "fast_p": {who: {str(p): share for p, share in f.items()} for who, f in self.summary.fast.items()},
            },
            "asked": self.asked,
            "cut_short": self.cut_short,
            "trouble": self.trouble,
            "rows": [dataclasses.asdict(r) for r in self.rows],
        }

    def as_text(self) -> str:
        """What the Markdown file says."""
        lines = [f"- {key}: {value}" for key, value in self.about.items()]
        lines.append(f"- copy bandwidth, read and written: {self.bandwidth / 1e9:,.0f} GB/s")
        body = "\n".join([table.HEADER, *(table.line(r, self.bandwidth) for r in self.rows)])
        summary = "\n".join(f"- {text}" for text in self.lines())
        return f"# akg bench\n\n{chr(10).join(lines)}\n\n{summary}\n\n{body}\n"

    def lines(self) -> list[str]:
        """For below the table."""
        left = self.asked - len(self.rows)
        cut_short = [f"cut short, {left} of {self.asked} problems were not measured: {self.cut_short}"]
        return [*self.summary.lines(), *(cut_short if self.cut_short else [])]


def measure(request: Request, output: Output) -> Done:
    """Every problem under eager, Inductor and AKG. What is measured is kept, also if something ends it before.

    Raises:
        UserError: nothing was measured: what was asked for cannot be done.
    """
    _check(request)
    paths = find(request.folders, request.only)
    places = runner.devices(request.device)
    about = table.environment(places[0])
    bandwidth = _bandwidth(places[0])
    results = Results(request.out, "cpu" if places[0] == "cpu" else "cuda") if request.out is not None else None
    jobs = [Job(p, request.seconds, request.inductor, request.dynamic, request.gate) for p in places]
    rows: dict[int, Row] = {}  # by the problem's place: whichever device was first to be done with one
    one = threading.Lock()

    def take(number: int, row: Row) -> None:
        with one:
            rows[number] = row
            if results is not None:
                results.add(row)
            if not output.as_json:
                print(table.line(row, bandwidth), flush=True)

    def done(cut_short: str = "", *, interrupted: bool = False) -> Done:
        ordered = tuple(rows[number] for number in sorted(rows))
        found = Done(
            ordered, about, bandwidth, table.summarise(ordered), (), len(paths), cut_short, interrupted, trouble=""
        )
        return _kept(found, results, request) if results is not None else found

    try:
        if not output.as_json:
            print(table.HEADER, flush=True)
        with _ended_by_sigterm():
            runner.run(paths, jobs, take, request.timeout or math.inf)
    except KeyboardInterrupt:
        return done("interrupted", interrupted=True)
    except EnvironmentFault as error:
        return done(str(error))
    except Exception as error:  # which is raised on: what was measured is kept
        done(f"{type(error).__name__}: {error}")
        raise
    return done()


def _check(request: Request) -> None:
    seconds, timeout = request.seconds, request.timeout
    if not (math.isfinite(seconds) and seconds > 0):
        raise UserError(f"--seconds {seconds:g} is no time to measure a problem for. Give a positive number.")
    if not (math.isfinite(timeout) and timeout >= 0):
        raise UserError(f"--timeout {timeout:g} is no limit. Give seconds for each problem, or 0 for no limit.")
    if 0 < timeout <= seconds:
        raise UserError(
            f"--timeout {timeout:g} is over before --seconds {seconds:g} of timing. Give a longer limit, or 0 for none."
        )
    if request.plot and request.out is None:
        raise UserError("--plot needs --out FOLDER, where the plot is written.")
    if request.plot and importlib.util.find_spec("matplotlib") is None:
        raise UserError(table.NO_PLOT)


def _bandwidth(place: str) -> float:
    on_cpu = place == "cpu"
    try:
        bandwidth = copy_bandwidth(torch.device(place), 128 if on_cpu else 1024)
    except torch.OutOfMemoryError as error:
        raise EnvironmentFault(
            f"{place} has no 2 GB of free memory to measure the copy bandwidth with. End what else runs there, or give "
            "another --device."
        ) from error
    if not on_cpu:
        torch.cuda.empty_cache()
    return bandwidth


def _kept(done: Done, results: Results, request: Request) -> Done:
    if not done.rows:
        results.discard()
        return done
    written = results.finish(done.as_json(), done.as_text(), list(done.rows) if request.plot else None)
    return dataclasses.replace(done, written=written, trouble=results.trouble)


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """What batch systems send when time is up is as good as Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
