"""The judge's own process: it answers one job after another. Candidates run in workers, never here."""

from __future__ import annotations

import os
import pickle
import random
import time
from typing import Any

import torch

from akg_dynamo.agents.profiler.abba import compare
from akg_dynamo.agents.verifier import plan
from akg_dynamo.agents.verifier.channel import Channel, ChannelClosed
from akg_dynamo.agents.verifier.inputs import Drawer
from akg_dynamo.agents.verifier.job import Job
from akg_dynamo.agents.verifier.shapes import elements
from akg_dynamo.agents.verifier.values import Case, Values
from akg_dynamo.agents.verifier.workers import Failed, Worker, Workers
from akg_dynamo.core.types import Outcome, Timing, Verdict

_MANY_ELEMENTS = 1 << 21
_KEPT_ARENA_BYTES = 64 << 20
_SPIN_S = 0.004


class Referee:
    """Judges one job after another."""

    def __init__(self, workers: Workers) -> None:
        self.workers = workers
        self.warm: Worker | None = None
        self.drawer = Drawer()

    def worker_for(self, job: Job) -> Worker:
        """The warm worker for a kernel by rules, a fresh one for any other."""
        if not job.trusted:
            return self.workers.start()
        if self.warm is None or not self.warm.alive:
            self.warm = self.workers.start()
        return self.warm

    def warm_up(self) -> None:
        """What the first job would otherwise wait for."""
        torch.set_num_threads(1)
        self.drawer.fill_pools(torch.float32)
        self.warm = self.workers.start()

    def judge(self, job: Job) -> Verdict:
        """The verdict on one job; a candidate's misbehaviour never raises."""
        started = time.perf_counter()
        build_s = 0.0
        timing = None
        checked: list[str] = []
        outcome, detail = Outcome.RIGHT, ""
        worker = self.worker_for(job)
        # One thread, unless there is much to do: the worker's threads are busy on the same cores, and two pools that
        # spin while they wait for each other took forty times as long.
        large = max((elements(job.subgraph, g.sizes) for g in plan.groups(job.subgraph, job.seed)), default=0)
        torch.set_num_threads((job.threads or (os.cpu_count() or 1)) if large > _MANY_ELEMENTS else 1)
        try:
            build_s = self._load(worker, job)
            if job.want_values:
                with torch.no_grad():
                    Values(self.drawer, worker, job, checked).check()
            if job.want_timing:
                timing = self._timing(worker, job)
        except Failed as failed:
            outcome, detail = failed.outcome, failed.detail
        finally:
            if worker.alive:
                if job.trusted:
                    worker.arena.shrink(_KEPT_ARENA_BYTES)
                else:
                    worker.end()
        return Verdict(outcome, detail, tuple(checked), timing, build_s, time.perf_counter() - started - build_s)

    def _load(self, worker: Worker, job: Job) -> float:
        candidate = job.candidate
        message = {
            "op": "load",
            "digest": candidate.digest,
            "name": f"akg_candidate_{candidate.digest[:16]}",
            "source": candidate.source,
            "build_dir": str(job.build_dir),
            "threads": job.threads,
        }
        # A hostile candidate must not sit beside the baseline it is compared with.
        blob = pickle.dumps(job.subgraph) if job.trusted and job.want_timing else b""
        started = time.perf_counter()
        answer = worker.ask(message, job.build_timeout_s, blob)
        if "error" in answer:
            raise Failed(Outcome.BUILD_FAILED, answer["error"])
        return time.perf_counter() - started

    def _timing(self, worker: Worker, job: Job) -> Timing:
        members = plan.groups(job.subgraph, job.seed)
        if not members:
            raise Failed(Outcome.NOT_JUDGED, "too big to be timed in the memory there is")
        sizes = members[0].sizes
        n_bytes = elements(job.subgraph, sizes) * 4
        n_sets = 4 if n_bytes < 4 << 20 else 2 if n_bytes < 256 << 20 else 1
        values_of = Values(self.drawer, worker, job, [])
        worker.arena.reset()
        group = plan.Group(sizes, "normal", 1)
        cases = [values_of.lay_out(group, 1_000_000 + i, with_outputs=False) for i in range(n_sets)]
        values_of.fill(cases)
        messages = [c.message for c in cases]
        if job.trusted:
            request = {"op": "time", "digest": job.candidate.digest, "cases": messages, "budget_s": job.timing_budget_s}
            answer = worker.ask(request, job.timeout_s)
            if "error" in answer:
                raise Failed(Outcome.WRONG, f"while timed: {answer['error']}")
            return Timing(*answer["timing"])
        return self._time_apart(worker, job, messages, cases)

    def _time_apart(self, worker: Worker, job: Job, messages: list[dict[str, Any]], cases: list[Case]) -> Timing:
        """For a candidate that may cheat: eager in another process, and our clock over random call counts."""
        other = self.workers.start()
        rng = random.Random(job.seed)
        running = [worker]
        try:
            other.arena.map(worker.arena.size)
            other.arena.bytes.copy_(worker.arena.bytes)
            load = {"op": "reference", "digest": job.candidate.digest, "threads": job.threads}
            other.ask(load, job.timeout_s, pickle.dumps(job.subgraph))

            def round_trip(kernel: bool, count: int, index: int) -> float:
                process = worker if kernel else other
                if process is not running[0]:
                    time.sleep(_SPIN_S)  # the other one's threads spin for a while on the same cores
                    running[0] = process
                message = {
                    "op": "calls",
                    "digest": job.candidate.digest,
                    "eager": not kernel,
                    "case": messages[index % len(messages)],
                    "count": count,
                }
                start = time.perf_counter()
                answer = process.ask(message, job.timeout_s)
                seconds = time.perf_counter() - start
                if "error" in answer:
                    raise Failed(Outcome.WRONG, f"while timed: {answer['error']}")
                return seconds

            def measure(kernel: bool, n_calls: int, index: int) -> float:
                few = rng.randint(1, max(1, n_calls // 4))
                more = few + n_calls + rng.randint(0, max(1, n_calls // 4))
                slope = (round_trip(kernel, more, index) - round_trip(kernel, few, index)) / (more - few)
                return max(slope, 1e-9) * n_calls

            return compare(measure, 4 * job.timing_budget_s, differences=True)
        finally:
            if other.alive:
                other.end()


def main(parent: Channel, zygote: Channel) -> None:
    """Answer jobs in the order they come, until the parent closes the channel."""
    referee = Referee(Workers(zygote))
    parent.send({"ready": True})
    referee.warm_up()
    while True:
        try:
            message, blob = parent.receive()
        except ChannelClosed:
            return
        reply: dict[str, Any] = {"id": message["id"]}
        try:
            verdict = referee.judge(pickle.loads(blob))  # from the parent, who is trusted
            timing = verdict.timing
            reply["verdict"] = {
                "outcome": verdict.outcome.name,
                "detail": verdict.detail,
                "checked": verdict.checked,
                "timing": timing and [timing.ratio, timing.low, timing.high, timing.eager_us, timing.kernel_us],
                "build_s": verdict.build_s,
                "judge_s": verdict.judge_s,
            }
        except Exception as error:  # noqa: BLE001 - reported to the caller as a JudgeError; the next job is judged
            reply["error"] = f"{type(error).__name__}: {error}"
        parent.send(reply)
