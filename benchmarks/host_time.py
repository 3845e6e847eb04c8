"""Host time per call at tiny sizes: AKG beside Inductor and eager, and a standalone ModelNew beside one torch.mul.

    python benchmarks/host_time.py [--seconds 3]

A compiled function of 1, 3 and 20 kernels, static and with dynamic=True, must cost no more per call than Inductor's,
also where a kernel's size is not that of the one before; the ModelNew of a kernel's own file no more than 1.1 x an
eager torch.mul. All contenders of a row run interleaved, and a ratio is the median of the rounds' ratios with its 95%
interval. The file that akg-optimize writes around the kernel checks more, and is shown without a limit. The raw times
are kept in benchmarks/results.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from types import ModuleType

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from measure import Ratio, Rounds, environment, interleave  # noqa: E402

KERNELS = (1, 3, 20)
WIDTHS = {"": (8, 8), ", two widths": (8, 16)}
LIMITS = {"akg/inductor": 1.0, "modelnew/mul": 1.1}
PROBLEM = """\
import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x):
        return torch.sigmoid(x * 2 + 1) * x


def get_inputs():
    return [torch.randn(4, 8)]


def get_init_inputs():
    return []
"""


def chain(kernels: int) -> Callable[..., torch.Tensor]:
    """A function of that many kernels: a matrix product keeps each from joining the next."""

    def f(x: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        for i in range(kernels):
            x = torch.sigmoid(x * 2 + 1) * x
            if i + 1 < kernels:
                x = torch.mm(x, weights[i % len(weights)])
        return x

    return f


def compiled(kernels: int, widths: tuple[int, int], dynamic: bool, seconds: float) -> Rounds:
    """Eager, AKG and Inductor on a chain of that many kernels, of these widths by turns."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    a, b = widths
    weights = [torch.randn(a, b) / a**0.5, torch.randn(b, a) / b**0.5]
    given = [torch.randn(4, a), *(weights if a != b else weights[:1])]
    f = chain(kernels)
    contenders: dict[str, Callable[..., object]] = {"eager": f}
    contenders["akg"] = torch.compile(f, backend="akg", dynamic=dynamic or None, options={"gate": "correct"})
    contenders["inductor"] = torch.compile(f, backend="inductor", dynamic=dynamic or None)
    expected = f(*given)
    for call in contenders.values():
        torch.testing.assert_close(call(*given), expected, rtol=1e-3, atol=1e-3)  # roundings grow along a chain
    return interleave({name: (lambda g=call: g(*given)) for name, call in contenders.items()}, seconds=seconds)


def load(path: Path) -> ModuleType:
    """A written file as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def standalone(seconds: float) -> Rounds:
    """What akg-optimize writes for a model of one kernel: the kernel's file and the model's, beside torch.mul."""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        (folder / "one.py").write_text(PROBLEM)
        command = [str(Path(sys.executable).with_name("akg-optimize")), str(folder / "one.py"), "--gate", "correct"]
        subprocess.run([*command, "--out", str(folder / "out")], check=True, stdout=subprocess.DEVNULL)
        model = load(folder / "out" / "one_generated.py")
        (kernel,) = model.ModelNew.KERNELS
        x = torch.randn(4, 8)
        expected = model.Model()(x)
        own, whole = kernel(), model.ModelNew()
        for got in (*own(x), whole(x)):
            torch.testing.assert_close(got, expected)
        calls: dict[str, Callable[[], object]] = {
            "mul": lambda: torch.mul(x, x),
            "modelnew": lambda: own(x),
            "model file": lambda: whole(x),
        }
        return interleave(calls, seconds=seconds)


def main() -> int:
    """Measure, print and keep; 1 if a limit is exceeded."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="of timing per row")
    args = parser.parse_args()
    torch.set_num_threads(1)
    about = environment()
    print("| function | us per call | host time | 95% | limit | |\n|---|---|---|---|---|---|")
    rows: list[dict[str, object]] = []
    missed = 0

    def add(name: str, rounds: Rounds, ratios: tuple[tuple[str, str], ...]) -> None:
        nonlocal missed
        us = ", ".join(f"{who} {rounds.median_us(who):.2f}" for who in rounds.us)
        found: dict[str, Ratio] = {f"{a}/{b}": rounds.ratio(a, b) for a, b in ratios}
        for what, ratio in found.items():
            limit = LIMITS.get(what)
            over = limit is not None and ratio.mid > limit
            missed += over
            verdict = "" if limit is None else "MISSED" if over else "ok"
            interval = f"[{ratio.low:.3f}, {ratio.high:.3f}]"
            print(f"| {name} | {us} | {what} {ratio.mid:.3f} | {interval} | {limit or ''} | {verdict} |", flush=True)
        kept = {what: [r.mid, r.low, r.high] for what, r in found.items()}
        rows.append({"function": name, "us": dict(rounds.us), "ratios": kept})

    with torch.no_grad():
        for dynamic in (False, True):
            for kernels, (of, widths) in [(k, w) for w in WIDTHS.items() for k in KERNELS]:
                if kernels == 1 and of:
                    continue  # the same function
                name = f"{kernels} kernel{'s' * (kernels > 1)}{of}, {'dynamic' if dynamic else 'static'}"
                rounds = compiled(kernels, widths, dynamic, args.seconds)
                add(name, rounds, (("akg", "inductor"), ("akg", "eager")))
        add("standalone", standalone(args.seconds), (("modelnew", "mul"), ("model file", "mul")))

    results = HERE / "results"
    results.mkdir(exist_ok=True)
    path = results / f"host_time_{datetime.now(timezone.utc).strftime('%Y%m%dT%H%M%SZ')}.json"
    path.write_text(json.dumps({"environment": about, "limits": LIMITS, "rows": rows}, indent=1) + "\n")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
