"""The judge itself: what a verdict costs, phase by phase, what breaks it, what it leaves behind, and its luck.

    python benchmarks/judge.py [--device cuda] [--only costs breaking batch growth itself] [--results FOLDER]

costs     kernels by rules, judged for values and speed again and again: the median of a verdict is within its limit
breaking  kernels that hang, fork, allocate or crash: each ends as a verdict within its time, and the next one is judged
batch     a hundred candidates at once leave no process, no open file and no memory behind
growth    the memory of the judge's processes after many verdicts is what it was after the first hundred
itself    eager timed against itself, trusted and not: it wins at most 5 of 500 times
Raw figures are kept with the hardware and the versions, a file a day, and beside them the tables of it. It ends with 1
if something is not as it must be.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import judge_table  # noqa: E402
from judge_problems import BREAKING, BREAKING_CUDA, ITSELF, SMALL, by_rule, candidate, subgraphs  # noqa: E402
from measure import environment  # noqa: E402

from akg_dynamo.agents.verifier import Job, Judge  # noqa: E402
from akg_dynamo.core.targets import resolve  # noqa: E402
from akg_dynamo.core.types import Outcome, Verdict  # noqa: E402

LIMIT_MS = {"cpu": 150.0, "cuda": 400.0}
PHASES = ("spawn", "import", "values", "oracle", "timing")
ALLOWED_WINS = 0.01
ALLOWED_GROWTH = 0.05
ALLOWED_DEVICE_BYTES = 64 << 20
TIMEOUT_S = 3.0
SLACK_S = 3.0  # beyond its limit: ending it, and a new process for the next
AGAIN = 5
BATCH = 100


@dataclass
class Run:
    """One run of this file. `found` is written; `wrong` says what is not as it must be."""

    device: str
    judge: Judge
    folder: Path
    options: argparse.Namespace
    jobs: dict[str, Job]
    found: dict[str, Any] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    @property
    def pid(self) -> int:
        """The process that all others of the judge come from."""
        return self.judge.pid

    def small(self, **options: object) -> Job:
        """A right kernel for a small task, that nobody trusts unless told otherwise."""
        own = candidate(ITSELF[self.device][SMALL], self.device)
        return replace(replace(self.jobs[SMALL], candidate=own, want_timing=False), **options)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Held:
    """What the judge's processes hold. device_bytes: of device memory that is free no more."""

    processes: int
    files: int
    memory_bytes: int
    device_bytes: int

    @classmethod
    def now(cls, run: Run) -> Held:
        """Of it and all below it; shared pages count by share."""
        pids = list(_below(run.pid))
        files = sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)
        used = 0
        if run.device == "cuda":
            free, total = torch.cuda.mem_get_info()
            used = total - free
        return cls(len(pids), files, sum(map(_proportional_bytes, pids)), used)


def _below(pid: int) -> Iterator[int]:
    yield pid
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as children:
            for child in map(int, children.read().split()):
                yield from _below(child)


def _proportional_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as lines:
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))


def median_ms(verdicts: Sequence[Verdict], phase: str) -> float:
    """Of what that phase took."""
    return statistics.median(dict(v.phases).get(phase, 0.0) for v in verdicts) * 1e3


def costs(run: Run) -> None:
    """Every kernel by rules, again and again."""
    head = "".join(f"{p:>9}" for p in PHASES)
    print(f"\nmilliseconds of a verdict, medians of {AGAIN}\n{'':22}{'first':>8}{'median':>8}{head}")
    rows, all_ms = [], []
    for name, job in run.jobs.items():
        first, *again = [run.judge.judge([replace(job, seed=seed)])[0] for seed in range(AGAIN + 1)]
        for verdict in (first, *again):
            if verdict.outcome is not Outcome.RIGHT:
                run.wrong.append(f"{name}: {verdict.outcome.value}: {verdict.detail}")
        took = statistics.median(v.judge_s for v in again) * 1e3
        all_ms += [v.judge_s * 1e3 for v in again]
        phases = {p: round(median_ms(again, p), 2) for p in PHASES}
        timing = again[-1].timing
        row = {
            "problem": name,
            "first_ms": round(first.judge_s * 1e3, 1),
            "median_ms": round(took, 1),
            "phases_ms": phases,
        }
        rows.append({**row, "ratio": timing.ratio if timing else None})
        print(f"{name:22}{first.judge_s * 1e3:8.0f}{took:8.0f}" + "".join(f"{phases[p]:9.1f}" for p in PHASES))
    middle, limit = statistics.median(all_ms), LIMIT_MS[run.device]
    print(f"median of all: {middle:.0f} ms (limit {limit:.0f}), largest {max(all_ms):.0f} ms")
    run.found["costs"] = {"rows": rows, "median_ms": middle, "largest_ms": max(all_ms), "limit_ms": limit}
    if middle > limit:
        run.wrong.append(f"the median of a verdict is {middle:.0f} ms, more than {limit:.0f}")


def breaking(run: Run) -> None:
    """Kernels that do not return, each followed by one that does."""
    print(f"\n{'':36}{'verdict':>12}{'s':>7}{'next, s':>9}   (limit of a request: {TIMEOUT_S:g} s)")
    rows = []
    for name, kernel in (BREAKING | (BREAKING_CUDA if run.device == "cuda" else {})).items():
        hostile = candidate(kernel.source, run.device)
        bad = run.small(trusted=False, candidate=hostile, timeout_s=TIMEOUT_S, build_timeout_s=20.0)
        started = time.perf_counter()
        verdict = run.judge.judge([bad])[0]
        took = time.perf_counter() - started
        started = time.perf_counter()
        after = run.judge.judge([run.small(trusted=False)])[0]
        next_s = time.perf_counter() - started
        print(f"{name:36}{verdict.outcome.value:>12}{took:7.1f}{next_s:9.1f}   {verdict.detail[:60]}")
        rows.append({"kernel": name, "outcome": verdict.outcome.value, "seconds": took, "next_s": next_s})
        if verdict.outcome not in kernel.outcomes:
            run.wrong.append(f"{name}: {verdict.outcome.value}: {verdict.detail}")
        if took > TIMEOUT_S + SLACK_S:
            run.wrong.append(f"{name}: its verdict took {took:.1f} s")
        if after.outcome is not Outcome.RIGHT:
            run.wrong.append(f"after {name}: {after.outcome.value}: {after.detail}")
    run.found["breaking"] = rows


def batch(run: Run) -> None:
    """A hundred candidates at once, one in ten of them unknown, one in twenty wrong."""
    mixed = []
    for i in range(BATCH):
        job = run.small(seed=i, trusted=i % 10 != 0)
        ending = f"\n# {i}" if i % 20 else "\ndef run(*args): return (args[0] - args[1],)"
        mixed.append(replace(job, candidate=replace(job.candidate, source=job.candidate.source + ending)))
    run.judge.judge(mixed)
    before = Held.now(run)
    started = time.perf_counter()
    verdicts = run.judge.judge([replace(job, seed=job.seed + BATCH) for job in mixed])
    seconds, after = time.perf_counter() - started, Held.now(run)
    right = sum(v.outcome is Outcome.RIGHT for v in verdicts)
    print(f"\n{BATCH} candidates in {seconds:.1f} s, {right} right\n  before {before}\n  after  {after}")
    run.found["batch"] = {"candidates": BATCH, "seconds": seconds, "before": vars(before), "after": vars(after)}
    if right != BATCH - BATCH // 20:
        run.wrong.append(f"batch: {right} of {BATCH} right")
    if (after.processes, after.files) != (before.processes, before.files):
        run.wrong.append(f"batch: {before.processes} processes and {before.files} files became {after}")
    if after.memory_bytes > (1 + ALLOWED_GROWTH) * before.memory_bytes:
        run.wrong.append(f"batch: memory grew from {before.memory_bytes >> 20} to {after.memory_bytes >> 20} MB")


def growth(run: Run) -> None:
    """Many verdicts on kernels by rules of up to some megabytes, values and speed."""
    small = [job for name, job in run.jobs.items() if not name.endswith(("GB", "256 MB"))]
    budget_s = min(0.02, run.options.budget_s)
    jobs = [replace(small[i % len(small)], seed=i, timing_budget_s=budget_s) for i in range(run.options.verdicts)]
    run.judge.judge(jobs[:100])
    first = Held.now(run)
    started = time.perf_counter()
    run.judge.judge(jobs[100:])
    seconds, last = time.perf_counter() - started, Held.now(run)
    share = last.memory_bytes / first.memory_bytes - 1
    print(f"\nafter 100 verdicts {first}\nafter {len(jobs)}: {last}, {share:+.1%} of memory, in {seconds:.0f} s")
    run.found["growth"] = {"verdicts": len(jobs), "after_100": vars(first), "after_all": vars(last), "share": share}
    if abs(share) > ALLOWED_GROWTH:
        run.wrong.append(f"memory after {len(jobs)} verdicts differs by {share:+.1%} from that after 100")
    if last.device_bytes > first.device_bytes + ALLOWED_DEVICE_BYTES:
        run.wrong.append(f"{(last.device_bytes - first.device_bytes) >> 20} MB of device memory are held")


def itself(run: Run) -> None:
    """Eager against itself."""
    print(f"\n{'eager against itself':38}{'won':>9}{'ratios':>24}{'ms each':>9}")
    rows = []
    for trusted in (True, False):
        each = run.options.runs if trusted else run.options.untrusted_runs
        wins = total = 0
        for name, source in ITSELF[run.device].items():
            one = run.small(
                subgraph=subgraphs(run.device)[name],
                candidate=candidate(source, run.device),
                trusted=trusted,
                want_values=False,
                want_timing=True,
                timing_budget_s=run.options.budget_s,
            )
            count = -(-each // len(ITSELF[run.device]))
            verdicts = run.judge.judge([replace(one, seed=seed) for seed in range(count)])
            timings = [v.timing for v in verdicts if v.timing is not None]
            who = name if trusted else f"{name}, not trusted"
            if len(timings) < count:
                bad = next(v for v in verdicts if v.timing is None)
                run.wrong.append(f"{who}: {bad.outcome.value}: {bad.detail}")
            if not timings:
                continue
            won, ratios = sum(t.wins() for t in timings), sorted(t.ratio for t in timings)
            wins, total = wins + won, total + len(timings)
            middle, cost = statistics.median(ratios), statistics.median(v.judge_s for v in verdicts) * 1e3
            spread = f"{ratios[0]:.3f} {middle:.3f} {ratios[-1]:.3f}"
            print(f"{who:38}{won:4} / {len(timings):<4}{spread:>22}{cost:9.0f}")
            times = [(t.eager_us, t.kernel_us, t.low, t.high) for t in timings]
            rows.append(
                {"problem": name, "trusted": trusted, "won": won, "ratios": ratios, "us": times, "ms_each": cost}
            )
        print(f"{'together':38}{wins:4} / {total}")
        if wins > max(1, ALLOWED_WINS * total):
            run.wrong.append(f"eager won {wins} of {total} times against itself ({'' if trusted else 'not '}trusted)")
    run.found["itself"] = rows


PARTS = {"costs": costs, "breaking": breaking, "batch": batch, "growth": growth, "itself": itself}


def main() -> int:
    """Judge, print, keep, and say what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=LIMIT_MS, default="cpu")
    parser.add_argument("--arch", default="native", help="what kernels are built for")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--verdicts", type=int, default=1000, help="of growth")
    parser.add_argument("--runs", type=int, default=500, help="timings of eager against itself, trusted")
    parser.add_argument("--untrusted-runs", type=int, default=100, help="the same by the judge's clock")
    parser.add_argument("--budget-s", type=float, default=0.02, help="of such a timing")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device here")
    target = resolve("cpp" if options.device == "cpu" else "triton_cuda", options.arch)
    options.results.mkdir(parents=True, exist_ok=True)
    path = options.results / f"judge_{options.device}_{datetime.now(tz=timezone.utc):%Y%m%d}.json"
    earlier = json.loads(path.read_text()) if path.exists() else {}  # parts may be run one by one
    with tempfile.TemporaryDirectory() as name, Judge(keep_warm=False) as judge:
        folder = Path(name)
        judge.warm(options.device)
        subs = subgraphs(options.device)
        made = {n: by_rule(n, sub, target, folder) for n, sub in subs.items()}
        jobs = {n: Job(subs[n], c, build_dir=folder, want_timing=True) for n, c in made.items() if c is not None}
        run = Run(options.device, judge, folder, options, jobs)
        run.found["environment"] = environment(options.device)
        started = time.perf_counter()
        run.judge.judge([run.small()])
        print(f"processes, contexts and the first verdict: {time.perf_counter() - started:.1f} s")
        for part in options.only:
            PARTS[part](run)
            path.write_text(json.dumps({**earlier, **run.found, "wrong": run.wrong}, indent=1))
            judge_table.write(path)
    print(f"written: {path}")
    for text in run.wrong:
        print(f"WRONG: {text}")
    return 1 if run.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
