"""The parent of the workers: hands out problems, one process per device, and survives a worker's death.

A kernel that breaks the CUDA context, or a segfault, costs one row and a new worker.
"""

from __future__ import annotations

import dataclasses
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from akg_dynamo.bench.problem import name_of
from akg_dynamo.bench.worker import Job, Row
from akg_dynamo.core.errors import UserError


def devices(asked: str) -> list[str]:
    """The devices to measure on: "auto" is every CUDA device, or else the CPU. UserError for one that is not there."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if asked == "cpu" or (asked == "auto" and not count):
        return ["cpu"]
    if not count:
        raise UserError(f"no CUDA device for --device {asked}: `akg doctor` says what is here")
    if asked in ("auto", "cuda"):
        return [f"cuda:{i}" for i in range(count)]
    if asked in [f"cuda:{i}" for i in range(count)]:
        return [asked]
    raise UserError(f"no device {asked!r}: there are cpu, cuda, {', '.join(f'cuda:{i}' for i in range(count))}")


def run(paths: Sequence[Path], jobs: Sequence[Job], done: Callable[[Row], None]) -> list[Row]:
    """A row per problem, in the order of `paths`. `done` is called with each as it comes, from several threads."""
    todo: queue.SimpleQueue[tuple[int, Path]] = queue.SimpleQueue()
    for item in enumerate(paths):
        todo.put(item)
    rows: dict[int, Row] = {}

    def drain(job: Job) -> None:
        worker = _Worker(job)
        while True:
            try:
                number, path = todo.get_nowait()
            except queue.Empty:
                break
            rows[number] = worker.measure(path)
            done(rows[number])
        worker.close()

    threads = [threading.Thread(target=drain, args=(job,), name=f"bench {job.device}") for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [rows[i] for i in sorted(rows)]


class _Worker:
    """A worker process, started when first needed and again after it died."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._process: subprocess.Popen[str] | None = None

    def measure(self, path: Path) -> Row:
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(f"{path.resolve()}\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if answer:
            return Row(**json.loads(answer))
        code = process.wait()
        self._process = None
        return Row(name_of(path), error=f"the worker process died (exit {code})")

    def _start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "akg_dynamo.bench.worker", json.dumps(dataclasses.asdict(self._job))]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self._process

    def close(self) -> None:
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait()
            self._process = None
