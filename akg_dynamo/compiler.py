"""From subgraphs to kernels: the whole story on one screen.

    look up -> (misses) design -> lower -> build, all together -> judge the values while others still build
            -> time the right ones on quiet cores -> file the verdicts -> load

`solve` is called once per graph with every subgraph that was cut out of it. A subgraph for which no kernel was right
and worth it gets a `SplitReason`, and stays with torch.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

import akg_dynamo.agents.coder.module as kernel_module
from akg_dynamo.agents.coder import toolchain
from akg_dynamo.cache import signature
from akg_dynamo.cache.entry import Entry, Provenance, Right, Worth, refused
from akg_dynamo.cache.store import Claim, Store
from akg_dynamo.core.errors import AkgError, LoweringError, SketchError, ToolchainError
from akg_dynamo.core.naming import op_name
from akg_dynamo.core.types import (
    Candidate,
    Design,
    Kernel,
    Outcome,
    SplitReason,
    SplitReasonType,
    Subgraph,
    Target,
    Timing,
    Verdict,
)
from akg_dynamo.options import Options

if TYPE_CHECKING:
    from akg_dynamo.agents.verifier import Job, Judge

log = logging.getLogger(__name__)

Solution = Kernel | SplitReason


@dataclass
class _Work:
    """One subgraph on its way to a kernel. The only mutable thing here; it never leaves this file."""

    sub: Subgraph
    key: str
    claim: Claim | None = None
    candidate: Candidate | None = None
    right: Future[Verdict] | None = None
    entry: Entry | None = None


# --------------------------------------------------------------------------------------------------------------------
# What outlives one call: the cache folders in use, and one judge per process.

_stores: dict[Path | None, Store] = {}
_judges: list[Judge] = []  # none or one
_lock = threading.Lock()


def store_for(options: Options) -> Store:
    """The cache these options name; one per folder and process."""
    with _lock:
        if options.cache_dir not in _stores:
            _stores[options.cache_dir] = Store(options.cache_dir)
        return _stores[options.cache_dir]


def warm_judge() -> Judge:
    """The process's judge. Starting it takes a second or two of another core: ask early, use late."""
    with _lock:
        if not _judges:
            from akg_dynamo.agents.verifier import Judge

            _judges.append(Judge())
            atexit.register(close_judge)
        return _judges[0]


def close_judge() -> None:
    """Ends the judge's processes; the next use starts them again."""
    with _lock:
        judges = list(_judges)
        _judges.clear()
    for judge in judges:
        judge.close()


# --------------------------------------------------------------------------------------------------------------------


def solve(subgraphs: Iterable[Subgraph], options: Options, target: Target | None = None) -> dict[str, Solution]:
    """A kernel, or the reason why there is none, for each distinct subgraph, by its digest."""
    target = target or options.target
    store = store_for(options)
    unique = {sub.digest: sub for sub in subgraphs}
    solutions: dict[str, Solution] = {}
    misses: list[_Work] = []
    device = signature.device(target)
    for digest, sub in unique.items():
        key = signature.key(
            sub, target, numerics=options.numerics, rtol=options.rtol, toolchain=toolchain.version_text()
        )
        entry = store.get(key)
        solution = _from_entry(entry, sub, options, store, device)
        if solution is not None:
            solutions[digest] = solution
        elif options.generation == "cached":
            solutions[digest] = SplitReason(SplitReasonType.NOT_CACHED)
        else:
            misses.append(_Work(sub, key, entry=entry))
    if misses:
        run = _Run(options, target, store, device, warm_judge(), torch.get_num_threads())
        solutions.update(_generate(misses, run))
    return solutions


def _from_entry(entry: Entry | None, sub: Subgraph, options: Options, store: Store, device: str) -> Solution | None:
    """What the cache says; None when there is something left to find out."""
    if entry is None:
        return None
    reason = entry.reason()
    if reason is not None:
        return reason
    if not entry.usable or entry.candidate is None:
        return None
    timing = entry.timing(device)
    if options.gate == "profit":
        if timing is None:
            return None
        if not timing.wins():
            return SplitReason(SplitReasonType.NO_GAIN, _describe(timing))
    checked = entry.right.checked if entry.right else ()
    return _load(
        entry.candidate, entry.key, sub, Verdict(Outcome.RIGHT, checked=checked, timing=timing), store, cached=True
    )


def _load(
    candidate: Candidate, key: str, sub: Subgraph, verdict: Verdict, store: Store, *, cached: bool
) -> Kernel | SplitReason:
    try:
        loaded = kernel_module.load(candidate, store.objects)
        loaded.build()
    except (ToolchainError, OSError, RuntimeError) as error:
        return SplitReason(SplitReasonType.BUILD, str(error))
    return Kernel(candidate.name, key, sub.digest, candidate, verdict, loaded.run, cached)


# --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Run:
    """What every step of one generation needs."""

    options: Options
    target: Target
    store: Store
    device: str
    judge: Judge
    threads: int

    def job(self, work: _Work, *, timing: bool = False) -> Job:
        """The judge's question: are the values right, or (asked later, on quiet cores) does it pay?"""
        from akg_dynamo.agents.verifier import Job

        assert work.candidate is not None
        return Job(
            work.sub,
            work.candidate,
            numerics=self.options.numerics,
            rtol=self.options.rtol if self.options.rtol is not None else 1e-2,
            build_dir=self.store.objects,
            want_values=not timing,
            want_timing=timing,
            seed=int.from_bytes(os.urandom(4), "little"),
            threads=self.threads,
        )


def _generate(works: Sequence[_Work], run: _Run) -> dict[str, Solution]:
    """Designs, builds and judges what the cache did not have."""
    solutions: dict[str, Solution] = {}
    try:
        for work, verdict in _judged(works, run, solutions):
            if verdict.outcome is Outcome.RIGHT and run.options.gate == "profit":
                verdict = _timed(work, verdict, run)
            solutions[work.sub.digest] = _file(work, verdict, run)
    finally:
        for work in works:
            if work.claim is not None:
                work.claim.release()
    return solutions


def _judged(works: Sequence[_Work], run: _Run, solutions: dict[str, Solution]) -> list[tuple[_Work, Verdict]]:
    """The values' verdict of everything that could be designed; the others' reasons go into `solutions`."""
    started = time.monotonic()
    budget_s = run.options.compile_budget_s
    pending: list[_Work] = []
    with ThreadPoolExecutor(max_workers=_jobs(), thread_name_prefix="akg-build") as pool:
        for work in works:
            if budget_s is not None and time.monotonic() - started > budget_s:
                solutions[work.sub.digest] = SplitReason(SplitReasonType.BUDGET)
                continue
            work.claim = run.store.claim(work.key)
            if work.claim is None:
                solutions[work.sub.digest] = SplitReason(SplitReasonType.ELSEWHERE)
                continue
            candidate = _candidate(work, run.target)
            if isinstance(candidate, SplitReason):
                solutions[work.sub.digest] = candidate
                run.store.put(refused(work.key, work.sub.text, candidate, _provenance(work.sub)))
                continue
            work.candidate = candidate
            built = pool.submit(_build, candidate, run.store.objects)
            work.right = _then(built, lambda w=work: run.judge.submit(run.job(w)))  # type: ignore[misc]
            pending.append(work)
        return [(work, _settle(work)) for work in pending]


def _candidate(work: _Work, target: Target) -> Candidate | SplitReason:
    """A kernel by rules, or the cached one that is only waiting to be timed or judged here."""
    if work.entry is not None and work.entry.candidate is not None:
        return work.entry.candidate
    from akg_dynamo.agents.designer.rules import design
    from akg_dynamo.agents.lowering.cpp import lower

    sub = work.sub
    try:
        designed = design(sub, target)
        if isinstance(designed, SplitReason):
            return designed
        assert isinstance(designed, Design)
        return kernel_module.render(sub, designed, lower(designed.sketch), op_name(sub))
    except (SketchError, LoweringError) as error:
        # A rule that makes an ill-formed sketch is a defect of ours; the user's model still runs, and it is said.
        log.warning("no kernel for %s: %s", op_name(sub), error)
        return SplitReason(SplitReasonType.DESIGN, str(error))


def _build(candidate: Candidate, objects: Path) -> None:
    kernel_module.load(candidate, objects).build()


def _then(built: Future[None], start: Callable[[], Future[Verdict]]) -> Future[Verdict]:
    """A verdict that follows a build: judging starts the moment the build is done."""
    verdict: Future[Verdict] = Future()

    def judged(done: Future[Verdict]) -> None:
        error = done.exception()
        if error is not None:
            verdict.set_exception(error)
        else:
            verdict.set_result(done.result())

    def go(done: Future[None]) -> None:
        error = done.exception() if not done.cancelled() else ToolchainError("cancelled")
        if error is not None:
            verdict.set_exception(error)
        else:
            start().add_done_callback(judged)

    built.add_done_callback(go)
    return verdict


def _settle(work: _Work) -> Verdict:
    assert work.right is not None
    try:
        return work.right.result()
    except ToolchainError as error:
        return Verdict(Outcome.BUILD_FAILED, str(error))
    except AkgError as error:
        # The judge failed: nothing is known of the kernel, so it is not used, and not filed as wrong either.
        log.warning("%s could not be judged: %s", op_name(work.sub), error)
        return Verdict(Outcome.NOT_JUDGED, str(error))


def _timed(work: _Work, verdict: Verdict, run: _Run) -> Verdict:
    """The same verdict with its timing (the judge times winners again on fresh data, and reports the second series)."""
    try:
        measured = run.judge.submit(run.job(work, timing=True)).result()
    except AkgError as error:
        return Verdict(Outcome.NOT_JUDGED, str(error))
    return measured if measured.timing is None else replace(verdict, timing=measured.timing)


def _file(work: _Work, verdict: Verdict, run: _Run) -> Solution:
    """Files what was found, and says what it means under these options."""
    sub, candidate = work.sub, work.candidate
    assert candidate is not None
    if verdict.outcome is Outcome.NOT_JUDGED:
        return SplitReason(SplitReasonType.NOT_JUDGED, verdict.detail)
    if verdict.outcome is not Outcome.RIGHT:
        kind = SplitReasonType.BUILD if verdict.outcome is Outcome.BUILD_FAILED else SplitReasonType.NOT_RIGHT
        reason = SplitReason(kind, f"{verdict.outcome.value}: {verdict.detail}")
        log.warning("%s is not used: %s", candidate.name, reason)
        run.store.put(refused(work.key, sub.text, reason, _provenance(sub)))
        return reason
    worth = {run.device: Worth(verdict.timing, time.time())} if verdict.timing is not None else {}
    run.store.put(
        Entry(
            work.key,
            sub.text,
            candidate=candidate,
            right=Right(verdict.outcome, verdict.detail, verdict.checked),
            worth=worth,
            provenance=_provenance(sub, verdict),
        )
    )
    if run.options.gate == "profit" and (verdict.timing is None or not verdict.timing.wins()):
        return SplitReason(SplitReasonType.NO_GAIN, _describe(verdict.timing) if verdict.timing else "")
    return _load(candidate, work.key, sub, verdict, run.store, cached=False)


def _provenance(sub: Subgraph, verdict: Verdict | None = None) -> Provenance:
    return Provenance(
        op=op_name(sub),
        generator=signature.generator_version(),
        torch=torch.__version__,
        created_at=time.time(),
        build_s=verdict.build_s if verdict else 0.0,
        judge_s=verdict.judge_s if verdict else 0.0,
    )


def _describe(timing: Timing) -> str:
    return f"{timing.ratio:.2f} x eager (95%: {timing.low:.2f} to {timing.high:.2f})"


def _jobs() -> int:
    return max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
