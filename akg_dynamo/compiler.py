"""From subgraphs to kernels: the whole story on one screen.

    look up -> (misses) design -> lower -> build, all together -> judge the values while others still build
            -> time the right ones on quiet cores -> where it may pay, race variants and judge the one that wins
            -> file the verdicts -> load

`solve` is called once per graph with every subgraph that was cut out of it. A subgraph for which no kernel was right
and worth it gets a `SplitReason`, and stays with torch.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from akg_dynamo import tuning
from akg_dynamo.agents.coder import builders, by_rules
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
_Building = tuple[Candidate, "Future[None]"]

_MOST_VARIANTS = 6
_TUNING_S = 2.0  # for all kernels of a graph together: enough for one by itself, and little of a model's first call
_BUILDING_S = 5.0  # from its beginning: variants that have not been built by then are left out
_LIKELY = 0.05  # of the bytes of a graph: variants of so large a kernel are built before they are known to be wanted
_TUNERS = 2  # kernels that are tuned at the same time: the judge takes turns, and never waits
_FAULTS = (  # of a kernel, not of its task
    Outcome.WRONG, Outcome.BUILD_FAILED, Outcome.CRASHED, Outcome.TIMED_OUT, Outcome.REJECTED,
)  # fmt: skip


@dataclass
class _Work:
    """One subgraph on its way to a kernel. The only mutable thing here; it never leaves this file."""

    sub: Subgraph
    target: Target
    key: str
    entry: Entry | None = None
    uses: int = 1  # by the graph
    claim: Claim | None = None
    candidate: Candidate | None = None
    right: Future[Verdict] | None = None
    others: Iterator[Candidate] = field(default_factory=lambda: iter(()))  # variants, written when they are asked for
    spare: Future[list[_Building]] | None = None  # the variants that are being built

    @property
    def seed(self) -> int:
        """Of what the judge draws: one oracle for all variants, and the same verdict whenever it is judged again.

        Rules cannot have known it when they were written, so nobody is helped by its following from the subgraph.
        """
        return int(self.sub.digest[:8], 16)


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


def solve(subgraphs: Iterable[Subgraph], options: Options) -> dict[str, Solution]:
    """A kernel, or the reason why there is none, for each distinct subgraph, by its digest.

    A subgraph that the graph has several times had better be given as often: what is worth tuning depends on it.
    """
    store = store_for(options)
    subgraphs = list(subgraphs)
    unique = {sub.digest: sub for sub in subgraphs}
    uses = Counter(sub.digest for sub in subgraphs)
    solutions: dict[str, Solution] = {}
    misses: list[_Work] = []
    targets: dict[str, Target] = {}
    for digest, sub in unique.items():
        target = targets.setdefault(sub.device, options.target_for(sub.device))
        version = by_rules.toolchain_version(target)
        key = signature.key(sub, target, numerics=options.numerics, rtol=options.rtol, toolchain=version)
        work = _Work(sub, target, key, store.get(key), uses[digest])
        solution = _from_entry(work, options, store)
        if solution is not None:
            solutions[digest] = solution
        elif options.generation == "cached":
            solutions[digest] = SplitReason(SplitReasonType.NOT_CACHED)
        else:
            misses.append(work)
    if misses:
        judge = warm_judge()
        for device in {work.target.backend for work in misses}:
            judge.warm(device)
        if any(work.target.dsl == "triton_cuda" for work in misses):
            builders.start()
        run = _Run(options, store, judge, torch.get_num_threads(), time.monotonic())
        solutions.update(_generate(misses, run))
    return solutions


def _from_entry(work: _Work, options: Options, store: Store) -> Solution | None:
    """What the cache says; None when there is something left to find out."""
    entry = work.entry
    if entry is None:
        return None
    reason = entry.reason()
    if reason is not None:
        return reason
    if not entry.usable or entry.candidate is None:
        return None
    timing = entry.timing(signature.device(work.target))
    if options.gate == "profit":
        if timing is None:
            return None
        if not timing.wins():
            return SplitReason(SplitReasonType.NO_GAIN, _describe(timing))
    checked = entry.right.checked if entry.right else ()
    work.candidate = entry.candidate
    return _load(work, Verdict(Outcome.RIGHT, checked=checked, timing=timing), store, cached=True)


def _load(work: _Work, verdict: Verdict, store: Store, *, cached: bool) -> Kernel | SplitReason:
    candidate = work.candidate
    assert candidate is not None
    try:
        loaded = by_rules.built(candidate, work.target, store.objects)
    except ToolchainError as error:
        return SplitReason(SplitReasonType.BUILD, str(error))
    return Kernel(
        candidate.name,
        work.key,
        work.sub.digest,
        candidate,
        verdict,
        loaded.run,
        run_into=getattr(loaded, "run_into", None),
        in_place=getattr(loaded, "IN_PLACE", ()),
        reads_addresses=getattr(loaded, "READS_ADDRESSES", False),
        cached=cached,
    )


# --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Run:
    """What every step of one generation needs."""

    options: Options
    store: Store
    judge: Judge
    threads: int
    started_s: float

    @property
    def is_late(self) -> bool:
        """Whether the compile budget is spent."""
        budget_s = self.options.compile_budget_s
        return budget_s is not None and time.monotonic() - self.started_s > budget_s

    def ask(self, work: _Work) -> Future[Verdict]:
        """Whether the values are right."""
        return self.judge.submit(self.job(work))

    def job(self, work: _Work, *, timing: bool = False) -> Job:
        """The judge's question: are the values right, or (asked later, on quiet cores) does it pay?"""
        from akg_dynamo.agents.verifier import Job
        from akg_dynamo.relatives import relatives_of

        assert work.candidate is not None
        return Job(
            work.sub,
            work.candidate,
            numerics=self.options.numerics,
            rtol=self.options.rtol if self.options.rtol is not None else 1e-2,
            build_dir=self.store.objects,
            want_values=not timing,
            want_timing=timing,
            seed=work.seed,
            threads=self.threads,
            relatives=() if timing else relatives_of(work.sub, work.candidate, work.target, self.options.numerics),
        )


def _generate(works: Sequence[_Work], run: _Run) -> dict[str, Solution]:
    """Designs, builds and judges what the cache did not have."""
    solutions: dict[str, Solution] = {}
    pool = ThreadPoolExecutor(max_workers=_jobs(), thread_name_prefix="akg-build")
    try:
        judged = _judged(works, run, pool, solutions)
        for work, verdict in _measured(judged, run, pool):
            solutions[work.sub.digest] = _file(work, verdict, run)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # of variants that nobody waits for
        for work in works:
            if work.claim is not None:
                work.claim.release()
    return solutions


def _judged(
    works: Sequence[_Work], run: _Run, pool: Executor, solutions: dict[str, Solution]
) -> list[tuple[_Work, Verdict]]:
    """The values' verdict of everything that could be designed; the others' reasons go into `solutions`."""
    pending: list[_Work] = []
    for work in works:
        if run.is_late:
            solutions[work.sub.digest] = SplitReason(SplitReasonType.BUDGET)
            continue
        work.claim = run.store.claim(work.key)
        if work.claim is None:
            solutions[work.sub.digest] = SplitReason(SplitReasonType.ELSEWHERE)
            continue
        candidate = _first_candidate(work, run.options.numerics)
        if isinstance(candidate, SplitReason):
            solutions[work.sub.digest] = candidate
            run.store.put(refused(work.key, work.sub.text, candidate, _provenance(work.sub)))
            continue
        work.candidate = candidate
        built = pool.submit(_build, work.candidate, work.target, run.store.objects)
        work.right = _then(built, functools.partial(run.ask, work))
        pending.append(work)
    if run.options.gate == "profit" and builders.ready():  # other cores have nothing to do while values are judged
        shares = tuning.Shares((work.sub, work.target, work.uses) for work in pending)
        for work in sorted(pending, key=lambda work: -shares.of(work.sub)):
            if shares.of(work.sub) >= _LIKELY:
                work.spare = pool.submit(_start_building, work, pool, run.store.objects)
    return [(work, _settle(work)) for work in pending]


def _first_candidate(work: _Work, numerics: str) -> Candidate | SplitReason:
    """The best guess of the rules, or the cached kernel that is only waiting to be timed or judged here."""
    if work.entry is not None and work.entry.candidate is not None:
        return work.entry.candidate
    try:
        designs = _designs(work.sub, work.target, numerics)
    except SketchError as error:
        return _refusal(work, error)
    if isinstance(designs, SplitReason):
        return designs
    work.others = _written(work, designs, numerics)
    try:
        return next(work.others)
    except (SketchError, LoweringError) as error:
        return _refusal(work, error)


def _refusal(work: _Work, error: AkgError) -> SplitReason:
    # A rule that makes an ill-formed sketch is a defect of ours; the user's model still runs, and it is said.
    log.warning("no kernel for %s: %s", op_name(work.sub), error)
    return SplitReason(SplitReasonType.DESIGN, str(error))


def _written(work: _Work, designs: Iterable[Design], numerics: str) -> Iterator[Candidate]:
    """The kernels of these designs, those that differ."""
    seen: set[str] = set()
    for design in itertools.islice(designs, _MOST_VARIANTS):
        candidate = by_rules.write(work.sub, design, work.target, op_name(work.sub), numerics=numerics)
        if candidate.digest not in seen:
            seen.add(candidate.digest)
            yield candidate


def _variants(work: _Work) -> Iterator[Candidate]:
    """What else there is to try, as far as it can be written."""
    try:
        yield from work.others
    except (SketchError, LoweringError) as error:
        log.warning("a variant less for %s: %s", op_name(work.sub), error)


def _designs(sub: Subgraph, target: Target, numerics: str) -> Iterable[Design] | SplitReason:
    from akg_dynamo.agents.designer.variants import one_by_one

    return one_by_one(sub, target, numerics)


def _build(candidate: Candidate, target: Target, objects: Path) -> None:
    by_rules.build(candidate, target, objects)


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
        if error is None:
            try:
                start().add_done_callback(judged)
            except Exception as failure:  # noqa: BLE001 - a callback's exception is swallowed: the verdict would never come
                error = failure
        if error is not None:
            verdict.set_exception(error)

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


def _measured(judged: Sequence[tuple[_Work, Verdict]], run: _Run, pool: Executor) -> Iterator[tuple[_Work, Verdict]]:
    """The same with their timings, where gain decides, and with the best variant of those that have something to gain.

    The largest kernels come first: it is their variants that differ. Variants are built while others are timed.
    """
    ordered = sorted(judged, key=lambda pair: -pair[0].uses * tuning.bytes_moved(pair[0].sub))
    ordered = [(w, _another(w, verdict, run) if verdict.outcome in _FAULTS else verdict) for w, verdict in ordered]
    if run.options.gate != "profit":
        yield from ordered
        return
    shares = tuning.Shares((work.sub, work.target, work.uses) for work, _ in ordered)
    asked = [_ask(work, run, timing=True) if verdict.outcome is Outcome.RIGHT else None for work, verdict in ordered]
    timed: list[tuple[_Work, Verdict]] = []
    hopeful: dict[str, bool] = {}
    for (work, verdict), timing in zip(ordered, asked, strict=True):
        timed.append((work, _with_timing(verdict, timing) if timing is not None else verdict))
        found = timed[-1][1].timing
        if found is None:
            continue
        shares.add(work.sub, found)
        hopeful[work.key] = shares.worth_tuning(work.sub, work.target, found)
        if hopeful[work.key] and work.spare is None and not run.is_late:
            work.spare = pool.submit(_start_building, work, pool, run.store.objects)
    began = time.monotonic()

    def tuned(work: _Work, verdict: Verdict) -> Verdict:
        if not hopeful.get(work.key) or run.is_late or time.monotonic() > began + _TUNING_S:
            return verdict
        rivals = [c for c in _built(work, began + _BUILDING_S) if c != work.candidate]
        return _best_variant(work, verdict, rivals, run, shares) if rivals else verdict

    with ThreadPoolExecutor(max_workers=_TUNERS, thread_name_prefix="akg-tune") as tuners:
        yield from zip((work for work, _ in timed), tuners.map(lambda pair: tuned(*pair), timed), strict=True)


def _start_building(work: _Work, pool: Executor, objects: Path) -> list[_Building]:
    """Writes the variants, and has each built as soon as it is written."""
    return [(c, pool.submit(_build, c, work.target, objects)) for c in _variants(work)]


def _built(work: _Work, deadline: float | None = None) -> list[Candidate]:
    """The variants that have been built, by then."""
    if work.spare is None:
        return []

    def left_s() -> float | None:
        return None if deadline is None else max(0.0, deadline - time.monotonic())

    if not wait([work.spare], left_s()).done:
        return []
    building = work.spare.result()
    wait([built for _, built in building], left_s())
    return [candidate for candidate, built in building if built.done() and built.exception() is None]


def _best_variant(
    work: _Work, verdict: Verdict, rivals: Sequence[Candidate], run: _Run, shares: tuning.Shares
) -> Verdict:
    """Puts the fastest variant that is right in the place of the first guess, which is right; its verdict."""
    first = work.candidate
    assert first is not None

    def race(rivals: Sequence[Candidate]) -> Sequence[float]:
        try:
            return run.judge.race(run.job(work), rivals).result()
        except AkgError as error:
            log.warning("the variants of %s could not be timed: %s", first.name, error)
            return ()

    def judge(candidate: Candidate) -> Verdict:
        work.candidate = candidate
        found = _asked(work, run)
        if found.outcome in _FAULTS:
            log.warning("a faster variant of %s is %s: %s", first.name, found.outcome.value, found.detail)
        return found

    work.candidate, found = tuning.fastest(
        first,
        verdict,
        rivals,
        race=race,
        judge=judge,
        share=shares.of(work.sub),
    )
    if found is verdict:
        return verdict
    timed = _with_timing(found, _ask(work, run, timing=True))
    if not _wins(timed) and _wins(verdict):  # races are run on the device alone, and eager wins on the host
        work.candidate = first
        return verdict
    return timed


def _wins(verdict: Verdict) -> bool:
    return verdict.timing is not None and verdict.timing.wins()


def _another(work: _Work, verdict: Verdict, run: _Run) -> Verdict:
    """The verdict on the first of the other variants that is right, if one is."""
    first = work.candidate
    for candidate in _others(work, run):
        if run.is_late:
            break
        work.candidate = candidate
        found = _asked(work, run)
        if found.outcome is Outcome.RIGHT:
            log.warning("of %s one variant is not right, another is: %s", candidate.name, verdict.detail)
            return found
    work.candidate = first
    return verdict


def _others(work: _Work, run: _Run) -> Iterator[Candidate]:
    """Its other variants, built."""
    yield from _built(work)
    for candidate in _variants(work):
        with contextlib.suppress(ToolchainError):
            _build(candidate, work.target, run.store.objects)
            yield candidate


def _ask(work: _Work, run: _Run, *, timing: bool = False) -> Future[Verdict]:
    """The question to the judge about the candidate as it stands."""
    try:
        return run.judge.submit(run.job(work, timing=timing))
    except AkgError as error:
        failed: Future[Verdict] = Future()
        failed.set_exception(error)
        return failed


def _answer(asked: Future[Verdict]) -> Verdict:
    try:
        return asked.result()
    except AkgError as error:
        return Verdict(Outcome.NOT_JUDGED, str(error))


def _asked(work: _Work, run: _Run) -> Verdict:
    """What the judge says of the candidate's values."""
    return _answer(_ask(work, run))


def _with_timing(verdict: Verdict, timing: Future[Verdict]) -> Verdict:
    """The same verdict with its timing (the judge times winners again on fresh data, and reports the second series)."""
    measured = _answer(timing)
    return verdict if measured.timing is None else replace(verdict, timing=measured.timing)


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
    worth = {signature.device(work.target): Worth(verdict.timing, time.time())} if verdict.timing is not None else {}
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
    if run.options.gate == "profit" and not _wins(verdict):
        return SplitReason(SplitReasonType.NO_GAIN, _describe(verdict.timing) if verdict.timing else "")
    return _load(work, verdict, run.store, cached=False)


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
