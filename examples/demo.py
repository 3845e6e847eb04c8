"""What AKG does, on whatever is here: two real models, what was found, judged and won in each, and how fast they are.

make demo        or        python examples/demo.py [--model gpt|convnext|resnet] [--device cpu|cuda] [--no-inductor]

On a machine with a CUDA device it runs there, at sizes that such a device is bought for.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "benchmarks")]

import convnext  # noqa: E402
import gpt  # noqa: E402
import resnet  # noqa: E402
from measure import environment, interleave  # noqa: E402

import akg_dynamo  # noqa: E402
from akg_dynamo.explanation import records  # noqa: E402

Sizes = tuple[str, Callable[[], nn.Module], Callable[[], torch.Tensor]]
MODELS: dict[str, dict[str, Sizes]] = {
    "cpu": {
        "gpt": (
            "a 4-layer transformer, width 512, 2 x 256 tokens",
            lambda: gpt.GPT(4, 512, 8),
            lambda: torch.randint(0, 4096, (2, 256)),
        ),
        "convnext": ("a ConvNeXt-T, 2 images of 224 x 224", convnext.ConvNeXt, lambda: torch.randn(2, 3, 224, 224)),
        "resnet": ("a ResNet-18, 4 images of 224 x 224", resnet.ResNet, lambda: torch.randn(4, 3, 224, 224)),
    },
    "cuda": {
        "gpt": (
            "a 4-layer transformer, width 1024, 8 x 1024 tokens",
            lambda: gpt.GPT(4, 1024, 16, length=1024),
            lambda: torch.randint(0, 4096, (8, 1024)),
        ),
        "convnext": ("a ConvNeXt-T, 64 images of 224 x 224", convnext.ConvNeXt, lambda: torch.randn(64, 3, 224, 224)),
        "resnet": ("a ResNet-18, 128 images of 224 x 224", resnet.ResNet, lambda: torch.randn(128, 3, 224, 224)),
    },
}


def show(console: Console, name: str, device: str, with_inductor: bool) -> None:
    """One model: compile, explain, check, time."""
    what, build, sample = MODELS[device][name]
    console.rule(f"[bold]{name}[/]: {what}")
    torch.manual_seed(0)
    model, x = build().eval().to(device), sample().to(device)
    torch._dynamo.reset()
    records.clear()
    contenders: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"eager": model}
    with torch.no_grad():
        contenders["akg"] = torch.compile(model, backend="akg")
        with console.status("AKG: capturing, generating kernels, judging each against eager"):
            start = time.perf_counter()
            actual = contenders["akg"](x)
            actual.sum().item()  # the device has finished
            akg_s = time.perf_counter() - start
        for graph in akg_dynamo.explain():
            console.print(graph)
        expected = model(x)
        exact = model.double()(x.double() if x.is_floating_point() else x)
        model.float()
        theirs, mine = (float((y.double() - exact).abs().max()) for y in (expected, actual))
        first = [f"AKG {akg_s:.1f} s"]
        if with_inductor:
            contenders["inductor"] = torch.compile(model, backend="inductor")
            with console.status("Inductor: compiling, to compare with"):
                start = time.perf_counter()
                contenders["inductor"](x).sum().item()
                first.append(f"Inductor {time.perf_counter() - start:.1f} s")
        with console.status("timing, interleaved"):
            rounds = interleave({who: (lambda f=f: f(x)) for who, f in contenders.items()}, seconds=8.0)
    console.print(f"largest error against fp64: eager's {theirs:.2e}, AKG's {mine:.2e}")
    console.print(f"first call, all caches empty: {', '.join(first)}")
    table = Table("", "ms a call", "speed of AKG against it", title="end to end, interleaved in this process")
    table.caption = "a speed is the median of the rounds' ratios, with its 95% interval"
    for who in contenders:
        ratio = "" if who == "akg" else f"x {rounds.ratio(who, 'akg')}"
        table.add_row(who, f"{rounds.median_us(who) / 1e3:.2f}", ratio)
    console.print(table)


@contextlib.contextmanager
def empty_caches() -> Iterator[None]:
    """For AKG and for Inductor: what one of them has kept of an earlier run would be no comparison."""
    with tempfile.TemporaryDirectory(prefix="akg-demo-", ignore_cleanup_errors=True) as folder:
        names = {"AKG_CACHE_DIR": "akg", "TORCHINDUCTOR_CACHE_DIR": "inductor"}
        with mock.patch.dict(os.environ, {name: f"{folder}/{inside}" for name, inside in names.items()}):
            yield


def main() -> int:
    """Show the chosen models."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    here = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--model", choices=MODELS["cpu"], action="append", help="may be given several times")
    parser.add_argument("--device", choices=MODELS, default=here, help="where to run; the default is what is here")
    parser.add_argument("--no-inductor", action="store_true", help="do not compile with Inductor for comparison")
    args = parser.parse_args()
    console = Console()
    about = environment(args.device)
    hardware = f"{about['cpu']}, {about['threads']} threads, {about['capability']}"
    if args.device == "cuda":
        hardware = f"{torch.cuda.get_device_name()} in a machine with {hardware}"
    console.print(f"{hardware}; torch {about['torch']}, Python {platform.python_version()}")
    with empty_caches():
        for name in args.model or ("gpt", "convnext"):
            show(console, name, args.device, not args.no_inductor)
    console.print("More: `akg explain`, `akg-optimize examples/convnext.py`, `make bench`.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
