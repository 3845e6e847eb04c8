"""End-to-end speed of real models with random weights: eager, Inductor and AKG, interleaved in one process.

    python benchmarks/models.py [--only PATTERN] [--size large] [--device cuda] [--dtype bfloat16] [--train]

On a GPU it also gives the peak of device memory. A training step is forward, backward and the gradients, no optimiser.
Outputs and gradients are held to eager's own error against fp64 (twice its largest, and 64 units in the last place).
Exit code 1 if a model is slower than 0.98 of eager's speed, wrong, or left whole to torch.
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
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import torch
from torch import nn

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import zoo  # noqa: E402
from measure import Rounds, environment, interleave  # noqa: E402

from akg_dynamo.bench import clock, compare  # noqa: E402
from akg_dynamo.explanation import records  # noqa: E402

Step = Callable[[], tuple[torch.Tensor, ...]]


def step(called: nn.Module, model: nn.Module, inputs: tuple[torch.Tensor, ...], train: bool) -> Step:
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


def peak_bytes(call: Step, device: torch.device) -> int:
    """Of device memory during one call, what was there before included."""
    if device.type != "cuda":
        return 0
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated()


def measure(name: str, args: argparse.Namespace) -> dict[str, object]:
    """One model: values, first calls, memory, times."""
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    entry = zoo.build(name, args.size)
    model = entry.model.to(device, dtype)
    inputs = tuple(x.to(device, dtype) if x.is_floating_point() else x.to(device) for x in entry.inputs)
    if args.train:
        zoo.without_dropout(model)
    torch._dynamo.reset()
    records.clear()
    called = {"eager": model, "akg": torch.compile(model, backend="akg", dynamic=args.dynamic or None)}
    if not args.no_inductor:
        called["inductor"] = torch.compile(model, backend="inductor", dynamic=args.dynamic or None)
    steps = {who: step(f, model, inputs, args.train) for who, f in called.items()}
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
    truth = exact(model, inputs, args.train)
    wrong = {who: found for who, r in results.items() if (found := compare.difference(r, expected, truth, units=64))}
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


def main() -> int:
    """Print and keep the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="*")
    parser.add_argument(
        "--size", choices=("small", "large", "full"), default=None, help="default: large, full on a GPU"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--train", action="store_true", help="a training step instead of inference")
    parser.add_argument("--dynamic", action="store_true")
    parser.add_argument("--no-inductor", action="store_true")
    parser.add_argument("--seconds", type=float, default=6.0, help="of timing per model")
    args = parser.parse_args()
    args.size = args.size or ("full" if args.device.startswith("cuda") else "large")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    about = environment(args.device)
    rows: list[dict[str, object]] = []
    missed = []
    print(HEADER, flush=True)
    for name in fnmatch.filter(zoo.NAMES, args.only):
        row = measure(name, args)
        rows.append(row)
        print(line(row), flush=True)
        us: dict[str, tuple[float, ...]] = row["us"]  # type: ignore[assignment]
        wrong: dict[str, str] = row["wrong"]  # type: ignore[assignment]
        if "akg" in wrong or not row["kernels"] or not Rounds(us).ratio("eager", "akg").at_least(0.98):
            missed.append(name)
        gc.collect()
        if args.device.startswith("cuda"):
            torch.cuda.empty_cache()
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    kind = f"{args.device.partition(':')[0]}_{args.dtype}_{'train' if args.train else 'infer'}"
    text = json.dumps({"environment": about, "arguments": vars(args), "rows": rows}, indent=1)
    (results / f"models_{kind}_{stamp}.json").write_text(text + "\n")
    print(f"\nslower than 0.98 of eager, wrong or left whole to torch: {', '.join(missed) or 'none'}")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
