"""Where a model's time and memory go on a GPU, under eager, Inductor and AKG: for finding out, not for reporting.

    python benchmarks/cuda_profile.py --model vit [--dtype bfloat16] [--train] [--rows 20] [--source]

Per contender the device time of each kernel of one call, and what is allocated when its memory peaks, with the line
that allocated it; for AKG also which operators stay with torch, and with --source the generated forward.
"""

from __future__ import annotations

import argparse
import logging
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import models  # noqa: E402
import zoo  # noqa: E402

import akg_dynamo  # noqa: E402

Call = Callable[[], object]
_CALLS = 5


def kernel_times(call: Call) -> dict[str, tuple[float, int]]:
    """By kernel: microseconds and launches per call."""
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as seen:
        for _ in range(_CALLS):
            call()
        torch.cuda.synchronize()
    found: dict[str, tuple[float, int]] = {}
    for event in seen.events() or ():
        if event.device_type.name == "CUDA":
            us, count = found.get(event.name, (0.0, 0))
            found[event.name] = us + event.device_time_total / _CALLS, count + 1
    return {name: (us, -(-count // _CALLS)) for name, (us, count) in found.items()}


def show_times(who: str, times: dict[str, tuple[float, int]], rows: int) -> None:
    """The longest first."""
    total, launches = sum(us for us, _ in times.values()), sum(n for _, n in times.values())
    print(f"\n{who}: {total:.0f} us on the device in {launches} launches")
    for name, (us, count) in sorted(times.items(), key=lambda item: -item[1][0])[:rows]:
        print(f"  {us:9.1f} us {count:4} x  {_short(name)}")


def _short(name: str) -> str:
    name = re.sub(r"\(.*", "", re.sub(r"<.*", "", name.removeprefix("void ")))
    return name[-110:]


def at_peak(call: Call) -> tuple[int, dict[str, tuple[int, int]]]:
    """Bytes at the peak above what was there before, and by the line that allocated them: bytes and blocks."""
    call()
    torch.cuda.synchronize()
    torch.cuda.memory._record_memory_history(max_entries=1_000_000, stacks="python")
    call()
    torch.cuda.synchronize()
    events = torch.cuda.memory._snapshot()["device_traces"][torch.cuda.current_device()]
    torch.cuda.memory._record_memory_history(enabled=None)
    live: dict[int, tuple[int, str]] = {}
    now = highest = 0
    best: dict[int, tuple[int, str]] = {}
    for event in events:
        if event["action"] == "alloc":
            live[event["addr"]] = event["size"], _line(event.get("frames") or ())
            now += event["size"]
            if now > highest:
                highest, best = now, dict(live)
        elif event["action"] in ("free_requested", "free") and event["addr"] in live:
            now -= live.pop(event["addr"])[0]
    lines: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for size, line in best.values():
        lines[line] = lines[line][0] + size, lines[line][1] + 1
    return highest, dict(lines)


def _line(frames: Iterable[dict[str, Any]]) -> str:
    """The innermost line that is not inside torch or a kernel's module."""
    for frame in frames:
        where = frame["filename"]
        if "/torch/" not in where and not where.startswith("<kernel") and where not in ("??", ""):
            return f"{where.rpartition('/')[2]}:{frame['line']} {frame['name']}"
    return "elsewhere"


def show_memory(who: str, peak: int, lines: dict[str, tuple[int, int]], rows: int) -> None:
    """The largest first."""
    print(f"\n{who}: {peak / 2**20:.1f} MiB above what was there, when it is most")
    for line, (size, count) in sorted(lines.items(), key=lambda item: -item[1][0])[:rows]:
        print(f"  {size / 2**20:9.2f} MiB {count:4} x  {line}")


def show_left() -> None:
    """What AKG left to torch, and why; what its kernels are."""
    for report in akg_dynamo.explain():
        left = Counter(f"{node.target}: {node.why}" for node in report.left)
        print(f"\nAKG, graph {report.number} ({report.kind}): {report.operators} operators")
        for text, count in left.most_common(40):
            print(f"  {count:4} x {text[:150]}")
        for name, count in Counter(f"{k.name} ({len(k.nodes)})" for k in report.kernels).items():
            print(f"  kernel {name}: {count} x")


def main() -> int:
    """Print everything."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=zoo.NAMES, required=True)
    parser.add_argument("--size", choices=("small", "large", "full"), default="full")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--train", action="store_true", help="a training step instead of inference")
    parser.add_argument("--rows", type=int, default=20, help="of each list")
    parser.add_argument("--source", action="store_true", help="print the generated forwards")
    parser.add_argument("--no-inductor", action="store_true")
    args = parser.parse_args()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    entry = zoo.build(args.model, args.size)
    dtype = getattr(torch, args.dtype)
    model = entry.model.to("cuda", dtype)
    inputs = tuple(x.to("cuda", dtype) if x.is_floating_point() else x.to("cuda") for x in entry.inputs)
    if args.train:
        zoo.without_dropout(model)
    contenders: dict[str, Any] = {"eager": model, "akg": torch.compile(model, backend="akg")}
    if not args.no_inductor:
        contenders["inductor"] = torch.compile(model, backend="inductor")
    for who, called in contenders.items():
        call = models.step(called, model, inputs, args.train)
        show_times(who, kernel_times(call), args.rows)
        show_memory(who, *at_peak(call), args.rows)
        if who == "akg":
            show_left()
            if args.source:
                for report in akg_dynamo.explain():
                    for number, line in enumerate(report.source.splitlines(), 1):
                        print(f"{number:5} {line}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
