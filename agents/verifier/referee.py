"""The judge's own process: it answers one job after another. Candidates run in workers, never here.

For a subgraph on a CUDA device this process has a context of its own, beside the worker's: eager and the oracle are
evaluated there, where no candidate can read them.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
import time
from collections.abc import Iterator, Sequence
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import torch

from akg_dynamo.agents.profiler.roofline import Ceiling, DeviceCeiling, HostCeiling
from akg_dynamo.agents.verifier import cuda_memory, decomposed, plan, reading, reproduce
from akg_dynamo.agents.verifier.answers import trick_of_error
from akg_dynamo.agents.verifier.behaviour import Behaviour
from akg_dynamo.agents.verifier.channel import Channel, ChannelClosed
from akg_dynamo.agents.verifier.device_lock import device_lock, lock_path
from akg_dynamo.agents.verifier.drop_in import DropIn
from akg_dynamo.agents.verifier.inputs import Drawer
from akg_dynamo.agents.verifier.job import Job
from akg_dynamo.agents.verifier.naming import Naming
from akg_dynamo.agents.verifier.numerics import Contract, Expected, Rule
from akg_dynamo.agents.verifier.remembered import Remembered
from akg_dynamo.agents.verifier.sanitizing import Sanitizing
from akg_dynamo.agents.verifier.shapes import elements
from akg_dynamo.agents.verifier.timing import Stopwatch
from akg_dynamo.agents.verifier.values import Values
from akg_dynamo.agents.verifier.workers import Failed, Worker, Workers
from akg_dynamo.core.protection import Protection
from akg_dynamo.core.types import Candidate, Outcome, Timing, Trick, Verdict

_MANY_ELEMENTS = 1 << 21
_KEPT_ARENA_BYTES = 64 << 20
_KEPT_DEVICE_BYTES = 256 << 20
_WARM_CANDIDATE_BYTES = 1 << 30
_VALUES_WAIT_S = 5.0
_CONTEXT_S = 60.0
_RUNGS: tuple[tuple[str, ...], ...] = (
    (),
    ("proc",),
    ("landlock",),
    ("landlock", "mounts"),
    ("landlock", "mounts", "seccomp"),
    ("landlock", "mounts", "seccomp", "identity"),
    ("landlock", "mounts", "seccomp", "identity", "privileges", "limits"),
)
"""What a worker on a device does without, until CUDA starts in it: the fewest means first."""
_DOES_NOT_START = "CUDA does not start under it"
_REQUESTS = 10  # of a judgement, which take as long as they may
_LONGEST_S = 3600  # of processor time for each core, where the judgement is not known yet
_TIMING_WAIT_S = 10.0
_TOO_LARGE = (
    "other inputs than ordinary ones; many calls; other layouts; whether the task tells right from wrong: "
    "it is too large for the memory that is free"
)
_WITH_GRADIENTS = frozenset({"normal", "positive", "wide", "offset", "dyadic"})
"""What gradients are judged on: on special values, formulas that are equally good differ."""


class Referee:
    """Judges one job after another."""

    def __init__(self, workers: Workers, shared: str) -> None:
        """`shared`: the folder that trusted candidates are built in, if a job does not say another."""
        self.workers = workers
        self.warm: dict[str, Worker] = {}
        self.spare: Worker | None = None  # with a context on the device, for the next candidate that nobody trusts
        self.drawer = Drawer()
        self.remembered = Remembered()
        self.ceilings: dict[str, Ceiling] = {}
        self.ordinal: int | None = None  # of the device this process has a context on
        self.shared = shared
        self.shared_is = _made(shared)
        self.works_under: dict[bool, tuple[str, ...]] = {}  # by trust: what workers on a device do without, once known
        self.sanitizing = Sanitizing(workers)
        self.preloaded: set[str] = set()

    # -- processes ----------------------------------------------------------------------------------------------------

    def worker_for(self, job: Job) -> Worker:
        """The warm worker for a kernel by rules, a fresh one for any other."""
        device = job.device
        if not job.trusted:
            return self._fresh(job)
        if job.build_dir != Path():
            self._share(os.path.realpath(job.build_dir))
        return self._warm(device)

    def _share(self, folder: str) -> None:
        """Let trusted candidates build there. What is confined already cannot be let into another folder, nor into one
        that was made anew in its place, as after the cache was cleared.
        """
        made = _made(folder)
        if (folder, made) == (self.shared, self.shared_is):
            return
        self.shared, self.shared_is = folder, made
        for warm in self.warm.values():
            if warm.alive:
                warm.end()

    def _warm(self, device: str) -> Worker:
        warm = self.warm.get(device)
        if warm is None or not warm.alive:
            warm = self._start(device, trusted=True)
        self.warm[device] = warm = self._started(warm)
        return warm

    def _ceiling(self, device: str) -> Ceiling:
        """What this machine can do at best, measured once."""
        if device not in self.ceilings:
            self.ceilings[device] = HostCeiling() if device == "cpu" else DeviceCeiling()
        return self.ceilings[device]

    def _fresh(self, job: Job) -> Worker:
        if job.model is not None and job.model.interpreted and "triton" not in self.preloaded:
            self.preloaded.add("triton")
            self.workers.preload("triton")
        if job.device == "cpu":
            cpu_s = _of_all_cores(job.build_timeout_s + _REQUESTS * job.timeout_s)
            return self.workers.start(job.device, trusted=False, cpu_s=cpu_s)
        spare, self.spare = self.spare, None
        if spare is None or not spare.alive:
            spare = self._start(job.device, trusted=False)
        return self._started(spare)

    def _start(self, device: str, *, trusted: bool) -> Worker:
        """A new worker. On a device it makes a context, which takes a second or two: `_started` waits for that."""
        if device == "cpu":
            cpu_s = 0 if trusted else _of_all_cores(_LONGEST_S)
            return self.workers.start(device, trusted=trusted, shared=(self.shared,), cpu_s=cpu_s)
        return self._start_under(self.works_under.get(trusted, _RUNGS[0]), device, trusted=trusted)

    def _start_under(self, without: tuple[str, ...], device: str, *, trusted: bool) -> Worker:
        shared, cpu_s = ((self.shared,), 0) if trusted else ((), _of_all_cores(_LONGEST_S))
        worker = self.workers.start(
            device, trusted=trusted, shared=shared, cpu_s=cpu_s, without=without, because=_DOES_NOT_START
        )
        on = {"device": device, "ordinal": self.ordinal or 0, "memory_bytes": _WARM_CANDIDATE_BYTES}
        worker.tell({"op": "warm", **on})
        return worker

    def _started(self, worker: Worker) -> Worker:
        """That worker; or, if nobody knows yet under what CUDA starts here, and it does not under all that it is kept
        from, one that does without as little as can be.
        """
        device, trusted = worker.confinement.device, worker.confinement.trusted
        if device == "cpu" or trusted in self.works_under:
            return worker
        for rung, without in enumerate(_RUNGS):
            worker = worker if rung == 0 else self._start_under(without, device, trusted=trusted)
            with contextlib.suppress(Failed):
                answer = worker.told(_CONTEXT_S)
                if "error" not in answer or "no_memory" in answer:
                    self.works_under[trusted] = without
                    return worker
            worker.end()
        self.works_under[trusted] = _RUNGS[0]  # whatever keeps CUDA from starting, it is none of these
        return self._start(device, trusted=trusted)  # which says why, when it is asked for more

    def protection(self, device: str, *, trusted: bool) -> Protection:
        """What a worker for candidates is kept from here."""
        if trusted and device in self.warm:
            return self._warm(device).protection
        worker = self._started(self._start(device, trusted=trusted))
        try:
            return worker.protection
        finally:
            if worker.alive:
                worker.end()

    def warm_up(self) -> None:
        """What the first job would otherwise wait for."""
        torch.set_num_threads(1)
        self.drawer.fill_pools(torch.float32)
        self.warm["cpu"] = self._start("cpu", trusted=True)

    def warm_up_device(self, ordinal: int) -> None:
        """What the first job on that device would otherwise wait for: contexts, here and in a worker, and kernels."""
        if self.ordinal is not None:
            return
        self.ordinal = ordinal
        self.warm["cuda"] = self._start("cuda", trusted=True)
        with contextlib.suppress(RuntimeError):  # said again, with its reason, when a job needs the device
            self._use_device(ordinal)
            device = torch.device("cuda", ordinal)
            self.drawer.fill_pools(torch.float32, device)
            x = torch.rand(1 << 10, device=device)
            Contract(Rule.BOUNDED, 0.0, 1.0).add(0, x + 1e-3, Expected(x, x.double()), "warming up")

    def _use_device(self, ordinal: int) -> None:
        if self.ordinal != ordinal:  # what the others know is of another device
            self.ceilings.pop("cuda", None)
            for worker in (*self.warm.values(), self.spare):
                if worker is not None and worker is not self.warm.get("cpu") and worker.alive:
                    worker.end()
            self.spare = None
        self.ordinal = ordinal
        cuda_memory.start(ordinal)

    # -- judging ------------------------------------------------------------------------------------------------------

    def judge(self, job: Job) -> Verdict:
        """The verdict on one job; a candidate's misbehaviour never raises."""
        started = time.perf_counter()
        judgement = _Judgement(job)
        self.workers.strays()  # are of those before
        try:
            if "reading" in job.screens:
                _refuse_by_reading(job)
            with judgement.phase("spawn"):
                self._prepare(job)
                worker = self.worker_for(job)
                judgement.protection = worker.protection
            try:
                self._judge(job, worker, judgement)
            finally:
                self._tidy(job, worker)
        except Failed as failed:
            judgement.outcome, judgement.detail = failed.outcome, failed.detail
            judgement.tricks = failed.tricks
            judgement.reproduce()
        except torch.OutOfMemoryError as error:
            judgement.outcome, judgement.detail = Outcome.NOT_JUDGED, f"too little device memory: {error}"
        return judgement.verdict(time.perf_counter() - started)

    def race(self, job: Job, rivals: Sequence[Candidate]) -> list[float | None]:
        """Seconds of a call of the job's candidate and of each rival, all written by rules; none for one that raises.

        Raises `Failed` when nothing can be said of them together.
        """
        self._prepare(job)
        worker = self.worker_for(job)
        try:
            means = plan.means(job.subgraph, job.device, job.memory_bytes)
            for candidate in (job.candidate, *rivals):
                self._load(worker, replace(job, candidate=candidate, want_timing=False), means)
            values = Values(self.drawer, worker, job, means, [])
            with self._device_lock(job, alone=True):
                watch = Stopwatch(worker, worker, job, values, self._ceiling(job.device))
                return watch.race([candidate.digest for candidate in rivals])
        finally:
            self._tidy(job, worker)

    def _prepare(self, job: Job) -> None:
        if job.flags is not None:
            job.flags.apply()
        if job.device not in ("cpu", "cuda"):
            raise Failed(Outcome.NOT_JUDGED, "its tensors are on several devices, or on one that is not known here")
        if job.device == "cuda":
            try:
                self._use_device(job.ordinal or 0)
            except RuntimeError as error:
                raise Failed(Outcome.NOT_JUDGED, f"the judge has no access to the device: {error}") from None

    def _judge(self, job: Job, worker: Worker, judgement: _Judgement) -> None:
        means = plan.means(job.subgraph, job.device, job.memory_bytes)
        # One thread, unless there is much to do: the worker's threads are busy on the same cores, and two pools that
        # spin while they wait for each other took forty times as long.
        sizes = plan.traced(job.subgraph, job.seed, means)
        too_large = sizes is None  # for eager: slices of it are judged, and nothing else
        many = job.device == "cpu" and sizes is not None and elements(job.subgraph, sizes) > _MANY_ELEMENTS
        with judgement.phase("import"):
            judgement.build_s = self._load(worker, job, means)
        values = judgement.values = Values(
            self.drawer, worker, job, means, judgement.checked, remembered=self.remembered
        )
        if job.want_values:
            torch.set_num_threads(1)
            with judgement.phase("values"):
                values.kind = self._judge_relatives(job, worker, means, judgement)
                torch.set_num_threads((job.threads or (os.cpu_count() or 1)) if many else 1)
                with torch.no_grad(), self._device_lock(job, alone=False):
                    unseen = self._check(job, values, means, too_large=too_large)
                    if too_large and not job.trusted:
                        judgement.unjudged += [_TOO_LARGE, *unseen]
                    elif job.model is not None:
                        DropIn(values, judgement.refuses, judgement.unjudged).check()
                    self._judge_backward(job, worker, judgement)
                    if job.sanitize:
                        without = self.works_under.get(job.trusted, _RUNGS[0])
                        self.sanitizing.check(job, values, without)
            judgement.moved("values", "oracle", values.oracle_s)
        untimed = plan.timed(job.subgraph, job.seed, means, trusted=job.trusted) is None
        if job.want_timing and untimed:
            judgement.unjudged.append("its speed: too big to be timed in the memory that is free")
        elif job.want_timing:
            with judgement.phase("timing"), self._device_lock(job, alone=True), self._twin(job, worker) as twin:
                another = functools.partial(self._twin, job, worker)
                watch = Stopwatch(worker, twin, job, values, self._ceiling(job.device), another=another)
                judgement.timing = watch.measure()
        left = worker.census().processes - 1 + self.workers.strays()
        if not job.trusted and left > 0:
            raise Failed(Outcome.REJECTED, f"{left} processes that it started are still there", Trick.THREADS)

    @contextlib.contextmanager
    def _twin(self, job: Job, worker: Worker) -> Iterator[Worker]:
        """Where eager is timed. Beside a candidate that nobody trusts, in another process that is as confined and as
        young as its own: system calls and memory cost both the same. On a device one more context would cost more than
        it is worth.
        """
        if job.trusted or job.device != "cpu":
            yield worker if job.trusted else self._warm(job.device)
            return
        twin = self.workers.start(job.device, trusted=False)
        try:
            yield twin
        finally:
            twin.end()

    def _check(self, job: Job, values: Values, means: plan.Means, *, too_large: bool) -> list[str]:
        """Its values; and of a candidate that is to be watched while it runs, how it behaves, or what it did wrong.
        What could not be seen of that.
        """
        if "running" not in job.screens:
            values.check()
            return []
        behaviour = self._behaviour(job, values, means)
        if too_large:
            values.check()
            return [why for why in [behaviour.check_large()] if why]
        try:
            values.check()
            behaviour.check()
        except Failed as failed:
            if failed.outcome in (Outcome.WRONG, Outcome.CRASHED, Outcome.REJECTED):
                failed.tricks = Naming(job, values, behaviour.start, behaviour.group).tricks(failed)
            raise
        return []

    def _behaviour(self, job: Job, values: Values, means: plan.Means) -> Behaviour:
        def start(watch: tuple[str, int] | None) -> tuple[Worker, Values]:
            worker = self._fresh(job)
            self._load(worker, job, means, watch)
            return worker, values.in_another(worker)

        def interpret() -> tuple[Worker, Values]:
            there = job.on_host(interpreted=True)
            room = plan.means(there.subgraph, there.device, job.memory_bytes)
            worker = self._fresh(there)
            self._load(worker, there, room)
            return worker, Values(self.drawer, worker, there, room, [], kind=values.kind, remembered=self.remembered)

        return Behaviour(job, values, start, interpret)

    def _judge_relatives(self, job: Job, worker: Worker, means: plan.Means, judgement: _Judgement) -> str:
        """Inputs of every kind on the smaller subgraphs; which kind is the ordinary one."""
        kind = "normal"
        for relative in job.relatives:
            smaller = replace(job, subgraph=relative.subgraph, candidate=relative.candidate, relatives=())
            judgement.build_s += self._load(worker, smaller, means)
            dims = ", ".join(f"{s.dtype}{list(s.shape)}" for s in relative.subgraph.inputs[:2])
            checked: list[str] = []
            values = Values(self.drawer, worker, smaller, means, checked, remembered=self.remembered)
            with torch.no_grad():
                values.check()
            judgement.checked.append(f"{', '.join(checked)}: by the same code on smaller tensors ({dims}, …)")
            kind = values.kind
        return kind

    def _judge_backward(self, job: Job, worker: Worker, judgement: _Judgement) -> None:
        """Gradients, under fresh ones from above, by the rules for any values."""
        for each in job.backward:
            asked = replace(job, subgraph=each.subgraph, model=each.model, backward=())
            means = plan.means(each.subgraph, job.device, job.memory_bytes)
            if plan.traced(each.subgraph, job.seed, means) is None:
                judgement.unjudged.append("gradients: too big to be judged in the memory that is free")
                continue
            judgement.build_s += self._load(worker, asked, means)
            checked: list[str] = []
            values = judgement.values = Values(self.drawer, worker, asked, means, checked, remembered=self.remembered)
            try:
                values.check(_WITH_GRADIENTS)
                if "running" in job.screens:
                    self._behaviour(asked, values, means).check_backward()
            except Failed as failed:
                if failed.outcome is Outcome.WRONG:
                    failed.detail = f"forward and backward: {failed.detail}"
                    failed.tricks = (Trick.GRADIENTS, *(t for t in failed.tricks if t is not Trick.VALUES))
                raise
            judgement.checked.append(f"gradients: {', '.join(checked)}")
        if job.backward:
            self._load(worker, job, plan.means(job.subgraph, job.device, job.memory_bytes))

    def _device_lock(self, job: Job, *, alone: bool) -> contextlib.AbstractContextManager[object]:
        if job.device == "cpu":
            return contextlib.nullcontext()
        uuid = torch.cuda.get_device_properties(torch.cuda.current_device()).uuid
        return device_lock(lock_path(str(uuid)), alone=alone, timeout_s=_TIMING_WAIT_S if alone else _VALUES_WAIT_S)

    def _load(self, worker: Worker, job: Job, means: plan.Means, watch: tuple[str, int] | None = None) -> float:
        candidate = job.candidate
        message = {
            "op": "load",
            "digest": candidate.digest,
            "name": f"akg_candidate_{candidate.digest[:16]}",
            "source": candidate.source,
            "build_dir": str(job.build_dir) if job.trusted and job.build_dir != Path() else worker.build_dir,
            "threads": job.threads,
            "device": job.device,
            "ordinal": self.ordinal,
            "memory_bytes": means.candidate_bytes,
            "watch": watch,
            "screened": "running" in job.screens and watch is None,
        }
        # A hostile candidate must not sit beside the baseline it is compared with.
        beside = job.subgraph if job.trusted and job.want_timing else None
        started = time.perf_counter()
        answer = worker.ask(message, job.build_timeout_s, pickle.dumps((job.flags, beside, job.model)))
        if "no_device" in answer:
            worker.end()
            raise Failed(Outcome.NOT_JUDGED, f"a second process cannot use the device: {answer['no_device']}")
        if "error" in answer:
            raise Failed(Outcome.BUILD_FAILED, answer["error"], *trick_of_error(answer["error"]))
        if answer.get("patched"):
            raise Failed(Outcome.REJECTED, f"it replaces {answer['patched']}, which are not its own", Trick.PATCHES)
        return time.perf_counter() - started

    def _tidy(self, job: Job, worker: Worker) -> None:
        """Give back what the user's program may need, and be ready for the next job."""
        if worker.alive and not job.trusted:
            worker.end()
        if worker.alive:
            worker.shrink(_KEPT_ARENA_BYTES)
        if job.device == "cpu":
            return
        if torch.cuda.memory_reserved() > _KEPT_DEVICE_BYTES:
            torch.cuda.empty_cache()
            if worker.alive:
                worker.tell({"op": "trim"})
        if not job.trusted:
            self.spare = self._start(job.device, trusted=False)


def _made(folder: str) -> tuple[int, int] | None:
    """What tells a folder from another one of the same name; it is made if it can be, since what is not there cannot be
    shared with anybody.
    """
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        found = os.stat(folder)
    except OSError:  # whoever builds there says so
        return None
    return found.st_dev, found.st_ino


def _of_all_cores(seconds: float) -> int:
    return int(seconds) * (os.cpu_count() or 1)


def _refuse_by_reading(job: Job) -> None:
    findings = reading.read(job.candidate.source, job.candidate.dsl)
    if findings:
        raise Failed(Outcome.REFUSED, reading.summary(findings), *reading.tricks(findings))


class _Judgement:
    """What is found, while it is found."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.outcome, self.detail = Outcome.RIGHT, ""
        self.checked: list[str] = []
        self.timing: Timing | None = None
        self.build_s = 0.0
        self.tricks: tuple[Trick, ...] = ()
        self.values: Values | None = None
        self.refuses: list[str] = []
        self.unjudged: list[str] = []
        self.reproduction = ""
        self.protection = Protection()
        self.phases: dict[str, float] = {}

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """What that part of the judging takes."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.phases[name] = self.phases.get(name, 0.0) + time.perf_counter() - started

    def moved(self, source: str, target: str, seconds: float) -> None:
        """Count so much of one phase as another."""
        self.phases[source] -= seconds
        self.phases[target] = self.phases.get(target, 0.0) + seconds

    def reproduce(self) -> None:
        """Write down what it failed on."""
        if self.job.reproduce and self.values is not None and self.values.suspect is not None:
            self.reproduction = reproduce.source(self.values.job, self.values.suspect, self.outcome, self.detail)

    def verdict(self, seconds: float) -> Verdict:
        """It, as it is reported."""
        checked, judge_s = tuple(self.checked), seconds - self.build_s
        found = Verdict(self.outcome, self.detail, checked, self.timing, self.build_s, judge_s)
        found = replace(found, seed=self.job.seed, reproduction=self.reproduction)
        found = replace(found, refuses=tuple(self.refuses), unjudged=tuple(self.unjudged))
        return replace(found, tricks=self.tricks, phases=tuple(self.phases.items()), protection=self.protection)


def main(parent: Channel, zygote: Channel, folder: str, shared: str) -> None:
    """Answer jobs in the order they come, until the parent closes the channel.

    folder: for scratch folders. shared: for what trusted candidates build.
    """
    referee = Referee(Workers(zygote, folder), shared)
    parent.send({"ready": True})
    referee.warm_up()
    while True:
        try:
            message, blob = parent.receive()
        except ChannelClosed:
            return
        if "foreseen" in message:
            decomposed.warm_up()
            continue
        if "warm" in message:
            referee.warm_up_device(message["warm"])
            continue
        reply: dict[str, Any] = {"id": message["id"]}
        try:
            if "protection" in message:
                found = referee.protection(message["protection"], trusted=message["trusted"])
                parent.send({**reply, "protection": found.to_json()})
                continue
            if "race" in message:
                parent.send({**reply, "race": referee.race(*pickle.loads(blob))})  # from the parent, who is trusted
                continue
            verdict = referee.judge(pickle.loads(blob))
            reply["verdict"] = {
                "outcome": verdict.outcome.name,
                "detail": verdict.detail,
                "checked": verdict.checked,
                "refuses": verdict.refuses,
                "unjudged": verdict.unjudged,
                "timing": verdict.timing and astuple(verdict.timing),
                "build_s": verdict.build_s,
                "judge_s": verdict.judge_s,
                "tricks": [t.name for t in verdict.tricks],
                "seed": verdict.seed,
                "reproduction": verdict.reproduction,
                "phases": verdict.phases,
                "protection": verdict.protection.to_json(),
            }
        except Exception as error:  # noqa: BLE001 - reported to the caller as a JudgeError; the next job is judged
            reply["error"] = f"{type(error).__name__}: {error}"
            if isinstance(error, torch.AcceleratorError):
                parent.send(reply)
                return  # this process's context is lost: the next job gets new processes
        parent.send(reply)
