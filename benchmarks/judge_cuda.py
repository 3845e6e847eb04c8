"""The judge on a CUDA device: what a verdict costs, whether memory grows, and what it says of eager against itself.

    python benchmarks/judge_cuda.py [--verdicts 30] [--against-itself 40] [--profile "softmax 40 KB"]

Kernels by rules for a dozen operators, from a kilobyte to a gigabyte, are judged and timed; contexts are made before.
It ends with 1 if a kernel was judged wrong, if memory grew, or if eager won against itself too often.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from akg_dynamo.agents.coder import by_rules
from akg_dynamo.agents.designer.rules import design
from akg_dynamo.agents.verifier import Job, Judge, zygote
from akg_dynamo.agents.verifier.channel import pair
from akg_dynamo.agents.verifier.referee import Referee
from akg_dynamo.agents.verifier.workers import Workers
from akg_dynamo.cache.flags import EagerFlags
from akg_dynamo.core.targets import resolve
from akg_dynamo.core.types import (
    Arg,
    Candidate,
    OpNode,
    Outcome,
    Ref,
    SplitReason,
    Subgraph,
    Target,
    TensorSpec,
    Verdict,
)

_ALLOWED_GROWTH_BYTES = 64 << 20
_ALLOWED_WINS = 0.05  # of eager against itself; the interval alone would let 2.5% of one series pass, and there are two


def spec(dtype: str, *shape: int) -> TensorSpec:
    """A contiguous tensor on the device."""
    stride = [1]
    for n in reversed(shape[1:]):
        stride.insert(0, stride[0] * n)
    return TensorSpec(dtype, shape, tuple(stride), "cuda")


def node(target: str, out: TensorSpec, *args: Arg) -> OpNode:
    """One call."""
    return OpNode(target, args, (), out)


def add_relu(dtype: str, *shape: int) -> Subgraph:
    """relu(a + b)"""
    s = spec(dtype, *shape)
    return Subgraph(
        (s, s), (), (node("aten.add.Tensor", s, Ref(0), Ref(1)), node("aten.relu.default", s, Ref(2))), (3,)
    )


def gelu_mul(dtype: str, *shape: int) -> Subgraph:
    """gelu(a) * b"""
    s = spec(dtype, *shape)
    return Subgraph(
        (s, s), (), (node("aten.gelu.default", s, Ref(0)), node("aten.mul.Tensor", s, Ref(2), Ref(1))), (3,)
    )


def softmax(dtype: str, rows: int, columns: int) -> Subgraph:
    """softmax(a * 2)"""
    s = spec(dtype, rows, columns)
    nodes = (node("aten.mul.Tensor", s, Ref(0), 2.0), node("aten._softmax.default", s, Ref(1), -1, False))
    return Subgraph((s,), (), nodes, (2,))


def row_sum(dtype: str, rows: int, columns: int) -> Subgraph:
    """(a * a).sum(1)"""
    s, out = spec(dtype, rows, columns), spec(dtype, rows)
    nodes = (node("aten.mul.Tensor", s, Ref(0), Ref(0)), node("aten.sum.dim_IntList", out, Ref(1), (1,)))
    return Subgraph((s,), (), nodes, (2,))


SUBGRAPHS = {
    "add_relu 1 KB": add_relu("float32", 256),
    "add_relu 64 KB": add_relu("float32", 128, 128),
    "add_relu 4 MB bf16": add_relu("bfloat16", 2048, 1024),
    "add_relu 256 MB": add_relu("float32", 1 << 13, 1 << 13),
    "add_relu 1 GB": add_relu("float32", 1 << 14, 1 << 14),
    "gelu_mul 1 MB": gelu_mul("float32", 512, 512),
    "gelu_mul 64 MB bf16": gelu_mul("bfloat16", 1 << 15, 1 << 10),
    "softmax 40 KB": softmax("float32", 10, 1000),
    "softmax 16 MB": softmax("float32", 4096, 1000),
    "softmax 128 MB bf16": softmax("bfloat16", 2048, 32768),
    "row_sum 1 MB": row_sum("float32", 64, 4096),
    "row_sum 64 MB": row_sum("float32", 4096, 4096),
}

GELU = "def run(*args): return (torch.nn.functional.gelu(args[0]) * args[1],)"
ADD = "def run(*args): return (torch.relu(args[0] + args[1]),)"
AGAINST_ITSELF = {
    "gelu_mul 1 MB": GELU,
    "gelu_mul 64 MB bf16": GELU,
    "add_relu 1 KB": ADD,
    "add_relu 256 MB": ADD,
}


def line(name: str, verdict: Verdict) -> str:
    """One row of the table."""
    text = f"{name:22} {verdict.outcome.value:8} {verdict.judge_s * 1e3:7.0f} ms {verdict.build_s * 1e3:6.0f} ms"
    t = verdict.timing
    if t is not None:
        text += f"   {t.ratio:5.2f} [{t.low:5.2f}, {t.high:5.2f}]  a call {t.eager_us:8.1f} -> {t.kernel_us:8.1f} us"
        text += f"  device {t.eager_device_us:8.1f} -> {t.kernel_device_us:8.1f} us"
    return text + (f"   {verdict.detail}" if verdict.detail else "")


def by_rule(name: str, sub: Subgraph, target: Target, folder: Path) -> Candidate | None:
    """The kernel by rules, built; None, and the reason printed, if there is none."""
    designed = design(sub, target)
    if isinstance(designed, SplitReason):
        print(f"{name:22} not designed: {designed}")
        return None
    candidate = by_rules.write(sub, designed, target, name.replace(" ", "_"))
    by_rules.built(candidate, target, folder)
    return candidate


def profile(name: str, target: Target) -> None:
    """Where the judge's time goes in one verdict: its own process is this one, for once."""
    requests, ours = pair()
    control, theirs = pair()
    here = os.getpid()
    if os.fork() == 0:  # before this process has a context or threads
        control.close()
        zygote.serve(requests, theirs.fileno(), here)
        os._exit(0)
    referee = Referee(Workers(ours))
    referee.warm_up()
    referee.warm_up_device(0)
    with tempfile.TemporaryDirectory() as folder:
        candidate = by_rule(name, SUBGRAPHS[name], target, Path(folder))
        assert candidate is not None
        job = Job(
            SUBGRAPHS[name], candidate, build_dir=Path(folder), want_timing=True, flags=EagerFlags.now(), ordinal=0
        )
        referee.judge(job)
        profiler = cProfile.Profile()
        print(line(name, profiler.runcall(referee.judge, job)))
        pstats.Stats(profiler).sort_stats("cumulative").print_stats("verifier|torch|built-in", 45)
    control.close()


def costs(judge: Judge, jobs: Mapping[str, Job]) -> Iterator[str]:
    """Prints the verdicts of every job and what they took; yields what is wrong."""
    print("\nfirst verdict of each kernel, and the second (kernels of torch are loaded at their first use)")
    seconds: list[float] = []
    for name, job in jobs.items():
        for again in range(2):
            verdict = judge.judge([job])[0]
            print(line(name if not again else "", verdict))
            if verdict.outcome is not Outcome.RIGHT:
                yield f"{name}: {verdict.outcome.value}: {verdict.detail}"
            if again:
                seconds.append(verdict.judge_s)
    print(f"median cost of a verdict: {statistics.median(seconds) * 1e3:.0f} ms, largest {max(seconds) * 1e3:.0f} ms")


def growth(judge: Judge, jobs: Sequence[Job], free_at_first: int) -> Iterator[str]:
    """Prints what many verdicts leave behind on the device; yields what is wrong."""
    free, started = torch.cuda.mem_get_info()[0], time.perf_counter()
    judge.judge(jobs)
    seconds = time.perf_counter() - started
    left = torch.cuda.mem_get_info()[0]
    grown, held = free - left, free_at_first - left
    print(f"\n{len(jobs)} verdicts in {seconds:.1f} s; memory grew by {grown >> 20} MB, held {held >> 20} MB")
    if grown > _ALLOWED_GROWTH_BYTES:
        yield f"memory grew by {grown >> 20} MB"


def against_itself(judge: Judge, name: str, asked: int, *, trusted: bool) -> Iterator[str]:
    """Prints how often eager wins against itself; yields what is wrong."""
    itself = Candidate("itself", "import torch\n" + AGAINST_ITSELF[name], "triton_cuda")
    one = Job(SUBGRAPHS[name], itself, want_values=False, want_timing=True, trusted=trusted)
    verdicts = judge.judge([replace(one, seed=seed) for seed in range(asked)])
    timings = [v.timing for v in verdicts if v.timing is not None]
    who = name if trusted else f"{name} (not trusted)"
    if not timings:
        yield f"{who}: {verdicts[0].outcome.value}: {verdicts[0].detail}"
        return
    wins, ratios = sum(t.wins() for t in timings), [t.ratio for t in timings]
    cost = statistics.median(v.judge_s for v in verdicts)
    print(
        f"{who:36} won {wins} of {len(timings)}; ratios {min(ratios):.3f} to {max(ratios):.3f}, "
        f"median {statistics.median(ratios):.3f}; {cost * 1e3:.0f} ms each"
    )
    if not trusted:
        print("    us a call:", ", ".join(f"{t.eager_us:.1f} -> {t.kernel_us:.1f}" for t in timings))
    if wins > max(1, _ALLOWED_WINS * len(timings)):
        yield f"{who}: eager won {wins} of {len(timings)} against itself"


def main() -> int:
    """Judge, print, and say what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="h200", help="what kernels are built for")
    parser.add_argument("--verdicts", type=int, default=30, help="verdicts between two looks at the memory")
    parser.add_argument("--against-itself", type=int, default=40, help="timings of eager against itself")
    parser.add_argument("--profile", choices=SUBGRAPHS, help="only show where the time of that verdict goes")
    options = parser.parse_args()
    target = resolve("triton_cuda", options.arch)
    if options.profile:  # before CUDA is looked for, which a fork would not survive
        profile(options.profile, target)
        return 0
    if not torch.cuda.is_available():
        parser.error("there is no CUDA device here")
    wrong: list[str] = []
    free_at_first = torch.cuda.mem_get_info()[0]
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as name, Judge() as judge:
        folder = Path(name)
        judge.warm("cuda")
        candidates = {n: by_rule(n, sub, target, folder) for n, sub in SUBGRAPHS.items()}
        jobs = {
            n: Job(SUBGRAPHS[n], c, build_dir=folder, want_timing=True) for n, c in candidates.items() if c is not None
        }
        first = judge.judge([Job(SUBGRAPHS["add_relu 1 KB"], Candidate("warm", "import torch\n" + ADD, "triton_cuda"))])
        print(f"contexts and the first verdict: {time.perf_counter() - started:.1f} s; {line('', first[0])}")
        wrong += costs(judge, jobs)
        small = [job for n, job in jobs.items() if "GB" not in n]
        wrong += growth(judge, [small[i % len(small)] for i in range(options.verdicts)], free_at_first)
        print("\neager against itself")
        for trusted in (True, False):
            asked = options.against_itself if trusted else max(1, options.against_itself // 8)
            for n in AGAINST_ITSELF:
                wrong += against_itself(judge, n, asked, trusted=trusted)
    for text in wrong:
        print(f"WRONG: {text}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
