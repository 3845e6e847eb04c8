"""End-to-end speed of real models with random weights: eager, Inductor and AKG, interleaved in one process.

    python benchmarks/models.py [--only PATTERN ...] [--size large] [--device cuda] [--dtype bfloat16 ...]
        [--infer] [--train] [--results DIR]

Every type given is run in inference, in training, or in both, one table each; the raw figures are on disk as soon as a
model is done. On a GPU it also gives the peak of device memory. A training step is forward, backward and the gradients,
no optimiser. Outputs and gradients are held to eager's own error against fp64 (twice its largest, and 64 units in the
last place; gradients beyond that, to its error in further draws: see `difference`). Exit code 1 if a model raises, is
slower than 0.98 of eager's speed, wrong, or left whole to torch.
"""

from __future__ import annotations

import argparse
import copy
import fnmatch
import gc
import json
import logging
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import nn

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import zoo  # noqa: E402
from measure import Rounds, environment, interleave  # noqa: E402

from akg_dynamo.bench import clock, compare  # noqa: E402
from akg_dynamo.explanation import records  # noqa: E402

Step = Callable[[], tuple[torch.Tensor, ...]]
_DRAWS = 8
"""Steps of eager that a gradient is compared with before it is called wrong."""


@dataclass(frozen=True)
class Setting:
    """What a table is about."""

    device: torch.device
    dtype: torch.dtype
    train: bool

    def __str__(self) -> str:
        return f"{self.device.type}_{str(self.dtype).removeprefix('torch.')}_{'train' if self.train else 'infer'}"


def step(called: Callable[..., Any], model: nn.Module, inputs: tuple[torch.Tensor, ...], train: bool) -> Step:
    """One call of `called` (`model`, compiled or not): its output, and when training all parameters' gradients."""

    def infer() -> tuple[torch.Tensor, ...]:
        with torch.no_grad():
            return (called(*inputs),)

    def learn() -> tuple[torch.Tensor, ...]:
        model.zero_grad(set_to_none=True)
        output = called(*inputs)
        # A smooth loss whose gradient differs from element to element, at no cost worth mentioning.
        (output.float() * output.detach().float().cos()).mean().backward()
        grads = tuple(p.grad for p in model.parameters() if p.grad is not None)
        return (output.detach(), *grads)

    return learn if train else infer


def exact(model: nn.Module, inputs: tuple[torch.Tensor, ...], train: bool) -> tuple[torch.Tensor, ...]:
    """The same in fp64."""
    wide = copy.deepcopy(model).double()
    return step(wide, wide, tuple(x.double() if x.is_floating_point() else x for x in inputs), train)()


def difference(
    actual: tuple[torch.Tensor, ...],
    expected: tuple[torch.Tensor, ...],
    truth: tuple[torch.Tensor, ...],
    redrawn: Callable[[int], tuple[torch.Tensor, ...]] | None,
) -> str:
    """What is wrong with a contender's results, empty if nothing.

    A gradient that errs more than eager's is compared with more steps of eager's (`redrawn`: see `zoo.nudged`), and is
    right if one of them errs as much.
    """

    def of(draw: tuple[torch.Tensor, ...], i: int) -> str:
        return compare.difference(actual[i : i + 1], draw[i : i + 1], truth[i : i + 1], units=64)

    found = compare.difference(actual, expected, truth, units=64)
    if not found or redrawn is None or len(actual) != len(expected) or of(expected, 0):
        return found
    left = [i for i in range(1, len(truth)) if of(expected, i)]
    for seed in range(_DRAWS):
        draw = redrawn(seed)
        left = [i for i in left if of(draw, i)]
        if not left:
            return ""
    return f"{found}; gradients {left} in {_DRAWS} further draws, too"


def peak_bytes(call: Step, device: torch.device) -> int:
    """Of device memory during one call, what was there before included."""
    if device.type != "cuda":
        return 0
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated()


def options(args: argparse.Namespace) -> dict[str, str | bool]:
    """The backend's options that the command line gives."""
    pairs = (text.partition("=") for text in args.akg)
    return {name: {"True": True, "False": False}.get(value, value) for name, _, value in pairs}


def warm_up(args: argparse.Namespace) -> None:
    """Starts what a process starts once (imports, workers, the judge), so that no model's first call has it."""
    for backend in ("akg", *([] if args.no_inductor else ["inductor"])):
        torch.compile(lambda x: (x + 1).tanh().sum(-1), backend=backend)(torch.ones(64, 1024, device=args.device))
        torch._dynamo.reset()


def measure(name: str, setting: Setting, args: argparse.Namespace) -> dict[str, object]:
    """One model: values, first calls, memory, times."""
    device, dtype, train = setting.device, setting.dtype, setting.train
    began = time.perf_counter()
    entry = zoo.build(name, args.size)
    model = entry.model.to(device, dtype)
    inputs = tuple(x.to(device, dtype) if x.is_floating_point() else x.to(device) for x in entry.inputs)
    if train:
        zoo.without_dropout(model)
    torch._dynamo.reset()
    records.clear()
    called: dict[str, Callable[..., Any]] = {
        "eager": model,
        "akg": torch.compile(model, backend="akg", dynamic=args.dynamic or None),
    }
    if not args.no_inductor:
        called["inductor"] = torch.compile(model, backend="inductor", dynamic=args.dynamic or None)
    steps = {who: step(f, model, inputs, train) for who, f in called.items()}
    buffers = {k: v.clone() for k, v in model.named_buffers()}

    def restored(call: Step) -> tuple[torch.Tensor, ...]:
        """The call, from the same running statistics."""
        for key, value in model.named_buffers():
            value.copy_(buffers[key])
        return call()

    expected = restored(steps["eager"])
    first_s: dict[str, float] = {}
    results: dict[str, tuple[torch.Tensor, ...]] = {}
    for who, call in steps.items():
        if who != "eager":
            start = time.perf_counter()
            results[who] = restored(call)
            if device.type == "cuda":
                torch.cuda.synchronize()
            first_s[who] = time.perf_counter() - start
    for key, value in model.named_buffers():
        value.copy_(buffers[key])
    truth = exact(model, inputs, train)

    def redrawn(seed: int) -> tuple[torch.Tensor, ...]:
        moved = zoo.nudged(model, seed)
        return step(moved, moved, inputs, train)()

    further = redrawn if train else None
    wrong = {who: found for who, r in results.items() if (found := difference(r, expected, truth, further))}
    reports = records.all()
    kernels, operators = sum(len(r.kernels) for r in reports), sum(r.operators for r in reports)
    fused = sum(len(k.nodes) for r in reports for k in r.kernels)
    del results, expected, truth
    gc.collect()
    memory = {who: peak_bytes(call, device) for who, call in steps.items()}
    rounds = interleave(steps, seconds=args.seconds)
    on_device = None
    if device.type == "cuda":
        on_device = interleave(steps, seconds=args.seconds / 2, timed=clock.DeviceClock(), visit_s=2e-5)
    return {
        "model": name,
        "wrong": wrong,
        "first_call_s": first_s,
        "kernels": kernels,
        "fused": fused,
        "operators": operators,
        "peak_bytes": memory,
        "us": dict(rounds.us),
        "device_us": dict(on_device.us) if on_device else {},
        "took_s": time.perf_counter() - began,
    }


def line(row: dict[str, object]) -> str:
    """The row of the table."""
    us: dict[str, tuple[float, ...]] = row["us"]  # type: ignore[assignment]
    device_us: dict[str, tuple[float, ...]] = row["device_us"]  # type: ignore[assignment]
    rounds, on_device = Rounds(us), Rounds(device_us)
    ms = " / ".join(f"{rounds.median_us(w) / 1e3:.2f}" for w in ("eager", "inductor", "akg") if w in us)
    cells = [str(row["model"]), ms]
    cells += [str(rounds.ratio(b, "akg")) if b in us else "" for b in ("eager", "inductor")]
    cells.append(str(on_device.ratio("inductor", "akg")) if "inductor" in device_us else "")
    memory: dict[str, int] = row["peak_bytes"]  # type: ignore[assignment]
    cells.append(f"{memory['akg'] / memory['inductor']:.3f}" if memory.get("inductor") else "")
    first: dict[str, float] = row["first_call_s"]  # type: ignore[assignment]
    cells.append(" / ".join(f"{first[w]:.1f}" for w in ("inductor", "akg") if w in first))
    cells.append(f"{row['kernels']}: {row['fused']} of {row['operators']}")
    wrong: dict[str, str] = row["wrong"]  # type: ignore[assignment]
    cells.append("; ".join(f"{who} WRONG: {what}" for who, what in wrong.items()))
    return f"| {' | '.join(cells)} |"


HEADER = (
    "| model | eager / Inductor / AKG ms | AKG over eager | AKG over Inductor | on the device, over Inductor "
    "| peak memory, of Inductor's | first call: Inductor / AKG s | kernels: operators in them | |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


def missed(row: dict[str, object]) -> bool:
    """Whether the model is not what it should be."""
    us: dict[str, tuple[float, ...]] = row.get("us", {})  # type: ignore[assignment]
    wrong: dict[str, str] = row.get("wrong", {})  # type: ignore[assignment]
    return not us or "akg" in wrong or not row["kernels"] or not Rounds(us).ratio("eager", "akg").at_least(0.98)


def run(setting: Setting, args: argparse.Namespace) -> list[str]:
    """Prints and keeps the table of one setting: the names of the models that missed."""
    args.results.mkdir(exist_ok=True, parents=True)
    file = args.results / f"models_{setting}_{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}.json"
    about = environment(args.device)
    rows: list[dict[str, object]] = []
    print(f"\n{setting}\n\n{HEADER}", flush=True)
    for name in zoo.NAMES:
        if not any(fnmatch.fnmatch(name, pattern) for pattern in args.only):
            continue
        try:
            row = measure(name, setting, args)
            print(line(row), flush=True)
        except RuntimeError as error:  # out of memory, or a compiler's failure: the others are still measured
            traceback.print_exc()
            text = f"{type(error).__name__}: {error}"
            row = {"model": name, "raised": text}
            print(f"| {name} | {text.partition(chr(10))[0]} |", flush=True)
        rows.append(row)
        text = json.dumps({"environment": about, "arguments": vars(args), "rows": rows}, indent=1, default=str)
        file.write_text(text + "\n")
        gc.collect()
        if setting.device.type == "cuda":
            torch.cuda.empty_cache()
    return [f"{row['model']} ({setting})" for row in rows if missed(row)]


def main() -> int:
    """Print and keep the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", default=["*"], metavar="PATTERN", help="names of models")
    parser.add_argument(
        "--size", choices=("small", "large", "full"), default=None, help="default: large, full on a GPU"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", nargs="+", choices=("float32", "bfloat16"), default=["float32"])
    parser.add_argument("--infer", action="store_true", help="inference: what is run when --train is not given")
    parser.add_argument("--train", action="store_true", help="a training step, beside inference if --infer is given")
    parser.add_argument("--dynamic", action="store_true")
    parser.add_argument("--no-inductor", action="store_true")
    parser.add_argument("--akg", nargs="+", default=[], metavar="NAME=VALUE", help="options of the backend")
    parser.add_argument("--seconds", type=float, default=6.0, help="of timing per model")
    parser.add_argument("--results", type=Path, default=HERE / "results", metavar="DIR", help="for the raw figures")
    args = parser.parse_args()
    device = torch.device(args.device)
    args.size = args.size or ("full" if device.type == "cuda" else "large")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    warm_up(args)
    trains = [False] * (args.infer or not args.train) + [True] * args.train
    names = [
        name
        for dtype in args.dtype
        for train in trains
        for name in run(Setting(device, getattr(torch, dtype), train), args)
    ]
    print(f"\nraised, slower than 0.98 of eager, wrong or left whole to torch: {', '.join(names) or 'none'}")
    return int(bool(names))


if __name__ == "__main__":
    sys.exit(main())
