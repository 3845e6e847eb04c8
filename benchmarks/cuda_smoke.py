"""Does it work on this GPU? Values, gradients, what was fused, and what a call costs the host, in about a minute.

    python benchmarks/cuda_smoke.py [--no-judge] [--only values,dynamic,training,launch,host]

Values are compared with eager's own error against float64. --no-judge believes every kernel, so that what comes before
and after the judge can be looked at by itself. It says what it saw, and ends with 1 if any value was wrong.
"""

from __future__ import annotations

import argparse
import copy
import functools
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import zoo  # noqa: E402

import akg_dynamo  # noqa: E402
from akg_dynamo import compiler  # noqa: E402
from akg_dynamo.agents.coder import by_rules, triton_toolchain  # noqa: E402
from akg_dynamo.agents.designer.rules import design  # noqa: E402
from akg_dynamo.core.targets import resolve  # noqa: E402
from akg_dynamo.core.types import OpNode, Outcome, Ref, SplitReason, SplitReasonType, Subgraph, TensorSpec, Verdict  # noqa: E402

DEVICE = "cuda"
Function = Callable[..., Tensor]


def rms_norm(x: Tensor, w: Tensor) -> Tensor:
    """As models write it: in at least float32, whatever x is."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype) * w


def normal(*shape: int) -> Tensor:
    """Numbers around 0."""
    return torch.randn(*shape, device=DEVICE)


FUNCTIONS: dict[str, tuple[Function, Callable[[], list[Tensor]]]] = {
    "gelu(x * a + b)": (lambda x, a, b: F.gelu(x * a + b), lambda: [normal(4096, 1024), normal(1024), normal(1024)]),
    "silu(x) * y": (lambda x, y: F.silu(x) * y, lambda: [normal(2048, 4096), normal(2048, 4096)]),
    "softmax": (lambda x: torch.softmax(x * 2, -1), lambda: [normal(4096, 1000)]),
    "long softmax": (lambda x: torch.log_softmax(x, -1), lambda: [normal(64, 100_000)]),
    "layer_norm(x + y)": (
        lambda x, y, w, b: F.layer_norm(x + y, (1024,), w, b),
        lambda: [normal(2048, 1024), normal(2048, 1024), normal(1024), normal(1024)],
    ),
    "rms_norm": (rms_norm, lambda: [normal(2048, 4096), normal(4096)]),
    "cross_entropy": (
        F.cross_entropy,
        lambda: [normal(512, 32_000), torch.randint(0, 32_000, (512,), device=DEVICE)],
    ),
    "middle sum": (lambda x: (x * 2).sum(1), lambda: [normal(64, 512, 256)]),
    "column sum": (lambda x: (x * x).sum(0), lambda: [normal(8192, 1024)]),
    "whole mean": (lambda x: (x * x).mean(), lambda: [normal(4096, 4096)]),
    "transpose": (lambda x: (x.transpose(1, 2) + 1).contiguous(), lambda: [normal(16, 512, 1024)]),
    "group_norm": (
        lambda x, w, b: F.silu(F.group_norm(x, 8, w, b)),
        lambda: [normal(8, 64, 64, 64), normal(64), normal(64)],
    ),
    "arg-max": (lambda x: (x + 1).argmax(-1).to(x.dtype), lambda: [normal(2048, 3000)]),
    "tiny": (lambda x: torch.sigmoid(x * 2 + 1) * x, lambda: [normal(4, 8)]),
}


class Believer:
    """Stands in for the judge: every kernel is right."""

    def warm(self, device: str) -> None:
        """It needs no device."""

    def submit(self, job: object) -> Future[Verdict]:
        """At once."""
        done: Future[Verdict] = Future()
        done.set_result(Verdict(Outcome.RIGHT))
        return done


class Report:
    """What was seen, line by line."""

    def __init__(self) -> None:
        self.wrong = 0

    def line(self, *fields: object) -> None:
        """One row of the table."""
        print("| " + " | ".join(str(f) for f in fields) + " |", flush=True)

    def attempt(self, name: str, step: Callable[[], Sequence[object]]) -> None:
        """A row, or what was raised instead of it."""
        try:
            fields = step()
        except Exception as error:  # noqa: BLE001 - a smoke test says what went wrong and goes on
            self.wrong += 1
            fields = [f"RAISED {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:300]]
            traceback.print_exc(limit=-4)
        self.line(name, *fields)


def compiled(function: Function, **options: object) -> Function:
    """Through AKG, with every kernel that is right."""
    torch._dynamo.reset()
    made: Function = torch.compile(function, backend="akg", options={"gate": "correct"}, **options)  # type: ignore[call-overload]
    return made


def used() -> str:
    """Which kernels the graphs compiled last use, and why operators were left to torch."""
    reports = akg_dynamo.explain()
    kernels = [kernel.name for report in reports for kernel in report.kernels]
    left = {node.why for report in reports for node in report.left if node.reason.kind not in _NO_LOSS}
    why = f" (left: {'; '.join(sorted(left))})"[:160] if left else ""
    return f"{len(kernels)}: {', '.join(dict.fromkeys(kernels))}"[:80] + why


_NO_LOSS = (SplitReasonType.VIEW, SplitReasonType.NOT_TENSOR, SplitReasonType.MATMUL, SplitReasonType.ATTENTION)


def error(got: Tensor, wide: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    scale = max(1e-30, float(wide.abs().max()))
    return float((got.double() - wide).abs().max()) / scale


def verdict(got: Tensor, eager: Tensor, wide: Tensor) -> tuple[str, float, float]:
    """Whether the error is at most twice eager's, and one rounding."""
    ours, theirs = error(got, wide), error(eager, wide)
    alike = got.shape == eager.shape and got.stride() == eager.stride() and got.dtype == eager.dtype
    good = alike and ours <= 2 * theirs + torch.finfo(got.dtype).eps
    return "ok" if good else "WRONG", ours, theirs


def cast(tensors: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Floats in another precision."""
    return [t.to(dtype) if t.is_floating_point() else t for t in tensors]


def values(report: Report) -> None:
    """Every function in two precisions."""
    print("\n| function | values | ours | eager's | first call | kernels |\n|---|---|---|---|---|---|")
    for dtype in (torch.float32, torch.bfloat16):
        for name in FUNCTIONS:
            step = functools.partial(_one_function, report, name, dtype)
            report.attempt(f"{name}, {str(dtype).removeprefix('torch.')}", step)


def _one_function(report: Report, name: str, dtype: torch.dtype) -> Sequence[object]:
    function, inputs = FUNCTIONS[name]
    given = cast(inputs(), dtype)
    wide = function(*cast(given, torch.float64))
    fast = compiled(function)
    start = time.perf_counter()
    got = fast(*given)
    torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    said, ours, theirs = verdict(got, function(*given), wide)
    report.wrong += said != "ok"
    return said, f"{ours:.1e}", f"{theirs:.1e}", f"{seconds:.2f} s", used()


def dynamic(report: Report) -> None:
    """Symbolic sizes: several calls of one compiled function."""
    print("\n| dynamic | values | graphs | kernels |\n|---|---|---|---|")
    for name in ("gelu(x * a + b)", "softmax", "layer_norm(x + y)", "middle sum", "column sum"):
        report.attempt(name, functools.partial(_one_dynamic, report, name))


def _one_dynamic(report: Report, name: str) -> Sequence[object]:
    function, inputs = FUNCTIONS[name]
    fast = compiled(function, dynamic=True)
    said = []
    for rows in (64, 77, 129, 32):
        first, *rest = inputs()
        given = [t[:rows].contiguous() if t.shape == first.shape else t for t in (first, *rest)]
        wide = function(*cast(given, torch.float64))
        said.append(verdict(fast(*given), function(*given), wide)[0])
    report.wrong += said.count("WRONG")
    return " ".join(said), len(akg_dynamo.explain()), used()


def training(report: Report) -> None:
    """A training step of the small GPT: loss and gradients beside eager's, in float64's eyes."""
    print("\n| training | values | ours | eager's | kernels |\n|---|---|---|---|---|")
    for dtype in (torch.float32, torch.bfloat16):
        step = functools.partial(_one_training_step, report, dtype)
        report.attempt(str(dtype).removeprefix("torch."), step)


def _gradients(model: torch.nn.Module, ids: Tensor, dtype: torch.dtype, wrap: Callable[[Any], Any]) -> list[Tensor]:
    mine = copy.deepcopy(model).to(dtype)
    logits = wrap(mine)(ids).flatten(0, 1)
    loss = F.cross_entropy(logits if dtype == torch.float64 else logits.float(), ids.flatten())
    torch.autograd.backward(loss)
    return [loss.detach(), *(p.grad for p in mine.parameters() if p.grad is not None)]


def _one_training_step(report: Report, dtype: torch.dtype) -> Sequence[object]:
    torch.manual_seed(0)
    model = zoo.example("gpt").GPT(2, 256, 4).to(DEVICE)
    ids = torch.randint(0, 4096, (4, 128), device=DEVICE)
    wide = _gradients(model, ids, torch.float64, lambda m: m)
    eager = _gradients(model, ids, dtype, lambda m: m)
    got = _gradients(model, ids, dtype, compiled)
    pairs = [(error(g, w), error(e, w)) for g, e, w in zip(got, eager, wide, strict=True)]
    eps = torch.finfo(dtype).eps
    worst = max(pairs, key=lambda pair: pair[0] / (pair[1] + eps))
    good = worst[0] <= 4 * worst[1] + eps
    report.wrong += not good
    return "ok" if good else "WRONG", f"{worst[0]:.1e}", f"{worst[1]:.1e}", used()


# --------------------------------------------------------------------------------------------------------------------
# What a call costs the host


def host_us(calls: Mapping[str, Callable[[], object]], rounds: int = 25, count: int = 30) -> dict[str, float]:
    """The median time until a call returns, interleaved, with an idle queue before each group."""
    for call in calls.values():
        for _ in range(5):
            call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(count):
                call()
            times[name].append((time.perf_counter() - start) / count * 1e6)
    return {name: statistics.median(series) for name, series in times.items()}


def launch(report: Report) -> None:
    """One kernel's module beside one torch.mul, and the pieces of a launch."""
    print("\n| launch | us |\n|---|---|")
    report.attempt("ModelNew / torch.mul (limit 1.1)", functools.partial(_one_launch, report))


def _one_launch(report: Report) -> Sequence[object]:
    spec = TensorSpec("float32", (32, 64), (64, 1), DEVICE)
    nodes = tuple(OpNode(f"aten.{op}.default", (Ref(i),), (), spec) for i, op in enumerate(("sigmoid", "tanh")))
    sub, target = Subgraph((spec,), (), nodes, (2,)), resolve("triton_cuda")
    designed = design(sub, target)
    assert not isinstance(designed, SplitReason)
    with tempfile.TemporaryDirectory() as folder:
        module = by_rules.built(by_rules.write(sub, designed, target, "smoke"), target, Path(folder))
        print(*triton_toolchain.resources(module, target))
        x, y = normal(32, 64), normal(32, 64)
        torch.testing.assert_close(module.run(x)[0], x.sigmoid().tanh())
        model, kernel, stream = module.ModelNew(), module._KERNELS[0][0], module._stream(0)
        by_triton = module.LAUNCHES[0]._by_triton(triton_toolchain.capability(target))
        addresses = (x.data_ptr(), y.data_ptr(), None, None)
        times = host_us(
            {
                "torch.mul": lambda: torch.mul(x, x),
                "ModelNew": lambda: model(x),
                "run": lambda: module.run(x),
                "the launch alone": lambda: kernel(addresses, stream),
                "the launch by Triton": lambda: by_triton(addresses, stream),
                "the allocation alone": lambda: module._empty((32, 64), (64, 1), torch.float32),
                "torch.empty_like": lambda: torch.empty_like(x),
                "the stream": lambda: module._stream(0),
                "an address": x.data_ptr,
                "a device": x.get_device,
                "nothing": lambda: None,
            }
        )
    for name, us in times.items():
        report.line(name, f"{us:.2f}")
    return (f"{times['ModelNew'] / times['torch.mul']:.2f}",)


def chain(kernels: int) -> Function:
    """A function of that many kernels: a matrix product keeps each from joining the next."""

    def f(x: Tensor, w: Tensor) -> Tensor:
        for i in range(kernels):
            x = torch.sigmoid(x * 2 + 1) * x
            if i + 1 < kernels:
                x = torch.mm(x, w)
        return x

    return f


def host(report: Report) -> None:
    """Compiled functions of a few kernels, beside Inductor's and eager."""
    print("\n| host time, us | eager | akg | inductor | akg / inductor |\n|---|---|---|---|---|")
    for symbolic in (False, True):
        for kernels in (1, 3, 20):
            step = functools.partial(_one_chain, kernels, symbolic)
            report.attempt(f"{kernels} {'dynamic' if symbolic else 'static'}", step)


def _one_chain(kernels: int, symbolic: bool) -> Sequence[object]:
    function = chain(kernels)
    x, w = normal(4, 8), normal(8, 8)
    ours = compiled(function, dynamic=symbolic or None)
    theirs = torch.compile(function, dynamic=symbolic or None)
    with torch.no_grad():
        torch.testing.assert_close(ours(x, w), function(x, w), rtol=1e-3, atol=1e-3)
        calls = {"eager": lambda: function(x, w), "akg": lambda: ours(x, w), "inductor": lambda: theirs(x, w)}
        times = host_us(calls)
    return *(f"{us:.1f}" for us in times.values()), f"{times['akg'] / times['inductor']:.2f}"


STEPS = {"launch": launch, "values": values, "dynamic": dynamic, "training": training, "host": host}


def main() -> int:
    """Everything; 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--no-judge", action="store_true", help="believe every kernel")
    parser.add_argument("--only", default=",".join(STEPS), help="which steps, separated by commas")
    args = parser.parse_args()
    if args.no_judge:
        compiler.warm_judge = Believer  # type: ignore[assignment]
    report = Report()
    print(torch.__version__, triton_toolchain.version_text(), torch.cuda.get_device_name(), resolve("triton_cuda"))
    start = time.perf_counter()
    for name in args.only.split(","):
        STEPS[name](report)
        print(f"[{name} done after {time.perf_counter() - start:.0f} s]", flush=True)
    print("all right" if not report.wrong else f"{report.wrong} wrong")
    return int(report.wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
