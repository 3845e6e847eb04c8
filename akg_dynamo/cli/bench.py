"""`akg bench`: measure folders of problems, print and keep what was found."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import torch

from akg_dynamo.bench import run as runner
from akg_dynamo.bench import table
from akg_dynamo.bench.clock import copy_bandwidth
from akg_dynamo.bench.problem import find
from akg_dynamo.bench.worker import Job, Row
from akg_dynamo.cli.output import Output
from akg_dynamo.core.errors import UserError


@dataclass(frozen=True)
class Request:
    """What was asked for."""

    folders: tuple[Path, ...]
    only: str
    device: str
    seconds: float
    inductor: bool
    dynamic: bool
    gate: str
    out: Path | None
    plot: bool


@dataclass(frozen=True)
class Done:
    """What was measured, and where it was written."""

    rows: tuple[Row, ...]
    about: dict[str, object]
    bandwidth: float
    summary: table.Summary
    written: tuple[Path, ...]

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
            "rows": [dataclasses.asdict(r) for r in self.rows],
        }


def measure(request: Request, output: Output) -> Done:
    """Every problem under eager, Inductor and AKG."""
    paths = find(request.folders, request.only)
    places = runner.devices(request.device)
    if request.out is not None:
        try:
            request.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write results to {request.out}: {error}") from error
    about = table.environment(places[0])
    bandwidth = copy_bandwidth(torch.device(places[0]), 1024 if places[0] != "cpu" else 128)
    if places[0] != "cpu":
        torch.cuda.empty_cache()
    jobs = [Job(p, request.seconds, request.inductor, request.dynamic, request.gate) for p in places]
    if not output.as_json:
        print(table.HEADER, flush=True)

    def show(row: Row) -> None:
        if not output.as_json:
            print(table.line(row, bandwidth), flush=True)

    rows = runner.run(paths, jobs, show)
    summary = table.summarise(rows)
    done = Done(tuple(rows), about, bandwidth, summary, ())
    return dataclasses.replace(done, written=_write(done, request)) if request.out is not None else done


def _write(done: Done, request: Request) -> tuple[Path, ...]:
    assert request.out is not None
    kind = "cuda" if "device" in done.about else "cpu"
    stem = f"bench_{kind}_{datetime.now(timezone.utc).strftime('%Y%m%dT%H%M%SZ')}"
    files = [request.out / f"{stem}.json", request.out / f"{stem}.md"]
    files[0].write_text(json.dumps(done.as_json(), indent=1) + "\n")
    lines = [f"- {key}: {value}" for key, value in done.about.items()]
    lines.append(f"- copy bandwidth, read and written: {done.bandwidth / 1e9:,.0f} GB/s")
    body = "\n".join([table.HEADER, *(table.line(r, done.bandwidth) for r in done.rows)])
    summary = "\n".join(f"- {text}" for text in done.summary.lines())
    files[1].write_text(f"# akg bench\n\n{chr(10).join(lines)}\n\n{summary}\n\n{body}\n")
    if request.plot:
        files.append(request.out / f"{stem}.png")
        table.plot(done.rows, files[-1])
    return tuple(files)
