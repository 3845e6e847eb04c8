"""What the rows say: medians, ratios with intervals, fast_p, geometric means, roofline fractions; and a plot."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from akg_dynamo.bench.clock import Ratio, Rounds, geometric_mean
from akg_dynamo.bench.worker import Row
from akg_dynamo.core.errors import UserError

FAST_P = (0.0, 0.8, 1.0, 1.05, 1.5, 2.0)
"""KernelBench's fast_p: the share of problems that are right and more than p times as fast as the baseline."""


def rounds_of(row: Row) -> Rounds:
    """Device time where it was measured, else the call's."""
    return Rounds({k: tuple(v) for k, v in (row.device_us or row.call_us).items()})


def ratio(row: Row, baseline: str, name: str = "akg") -> Ratio | None:
    """The baseline's time over the contender's; None where one of them was not measured."""
    rounds = rounds_of(row)
    return rounds.ratio(baseline, name) if baseline in rounds.us and name in rounds.us else None


def roofline(row: Row, bandwidth: float) -> float | None:
    """AKG's share of the copy bandwidth, counting every input and output once."""
    rounds = rounds_of(row)
    return row.bytes / (rounds.median_us("akg") * 1e-6) / bandwidth if "akg" in rounds.us and bandwidth else None


def fast_p(rows: Sequence[Row], baseline: str) -> dict[float, float]:
    """For each p, the share of all rows where AKG is right and more than p times as fast as the baseline."""
    found: dict[float, float] = {}
    for p in FAST_P:
        fast = [r for r in rows if "akg" not in r.wrong and (q := ratio(r, baseline)) is not None and q.mid > p]
        found[p] = len(fast) / len(rows) if rows else 0.0
    return found


NO_PLOT = "a plot needs matplotlib: pip install 'akg-dynamo[bench]', or leave --plot out"

HEADER = (
    "| problem | MB | eager us | Inductor us | AKG us | of the roof | AKG over eager | AKG over Inductor "
    "| call: eager, Inductor, AKG us | kernels | |\n|---|---:|---:|---:|---:|---:|---|---|---|---:|---|"
)


def line(row: Row, bandwidth: float) -> str:
    """The row of the Markdown table."""
    if row.error:
        return f"| {_cell(row.name)} | | | | | | | | | | {_cell(row.error)} |"
    rounds, calls = rounds_of(row), Rounds({k: tuple(v) for k, v in row.call_us.items()})
    us = [f"{rounds.median_us(n):,.1f}" if n in rounds.us else "" for n in ("eager", "inductor", "akg")]
    call = ", ".join(f"{calls.median_us(n):,.1f}" for n in ("eager", "inductor", "akg") if n in calls.us)
    share = roofline(row, bandwidth)
    wrong = "; ".join(f"{who} wrong: {what}" for who, what in row.wrong.items())
    cells = [_cell(row.name), f"{row.bytes / 2**20:,.2f}", *us, f"{share:.2f}" if share is not None else ""]
    cells += [str(ratio(row, "eager") or ""), str(ratio(row, "inductor") or ""), call, str(row.kernels), _cell(wrong)]
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    """Anybody's text, so that it stays one cell."""
    return " ".join(text.split()).replace("|", r"\|")


@dataclass(frozen=True)
class Summary:
    """Over all rows: geometric means of AKG's speed over each baseline's, and fast_p."""

    problems: int
    right: int
    over: Mapping[str, float]
    fast: Mapping[str, Mapping[float, float]]

    def lines(self) -> list[str]:
        """For below the table."""
        out = [f"problems: {self.problems}; AKG right on {self.right}"]
        for who, mean in self.over.items():
            shares = ", ".join(f"fast_{p:g} {share:.2f}" for p, share in self.fast[who].items())
            out.append(f"AKG over {who}: geometric mean {mean:.3f}; {shares}")
        return out


def summarise(rows: Sequence[Row]) -> Summary:
    """The summary of all rows; a problem without a baseline's time does not count for that baseline's mean."""
    baselines = [b for b in ("eager", "inductor") if any(b in rounds_of(r).us for r in rows)]
    over = {b: geometric_mean([q.mid for r in rows if (q := ratio(r, b)) is not None]) for b in baselines}
    right = sum(not r.error and "akg" not in r.wrong for r in rows)
    return Summary(len(rows), right, over, {b: fast_p(rows, b) for b in baselines})


def plot(rows: Sequence[Row], path: Path) -> None:
    """AKG's speed over each baseline, problems sorted: a curve per baseline. UserError without matplotlib."""
    try:
        import matplotlib
    except ImportError as error:
        raise UserError(NO_PLOT) from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5))
    for baseline in ("eager", "inductor"):
        values = sorted(q.mid for r in rows if (q := ratio(r, baseline)) is not None)
        if values:
            axes.plot(range(1, len(values) + 1), values, marker=".", label=f"over {baseline}")
    axes.axhline(1.0, color="grey", linewidth=0.8)
    axes.set_yscale("log")
    axes.set_xlabel("problems, sorted")
    axes.set_ylabel("AKG's speed (times the baseline's)")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def environment(device: str) -> dict[str, object]:
    """What a result must be read with: hardware and versions."""
    from importlib.metadata import PackageNotFoundError, version

    about: dict[str, object] = {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "load_at_start": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    for package in ("akg-dynamo", "triton"):
        try:
            about[package] = version(package)
        except PackageNotFoundError:
            about[package] = "from source" if package == "akg-dynamo" else "none"
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(device)
        about |= {
            "device": properties.name,
            "compute_capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory_gb": round(properties.total_memory / 1e9, 1),
            "cuda": torch.version.cuda,
            "allow_tf32_matmul": torch.backends.cuda.matmul.allow_tf32,
            "allow_tf32_cudnn": torch.backends.cudnn.allow_tf32,
        }
    return about


def cpu_name() -> str:
    """The processor's name, as the system gives it."""
    try:
        for text in Path("/proc/cpuinfo").read_text().splitlines():
            if text.startswith("model name"):
                return text.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
