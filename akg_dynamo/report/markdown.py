"""The report of one optimisation: what was found, judged and won, what stayed with torch and why, what was written."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import torch

from akg_dynamo.core.types import Kernel, Subgraph

_SLOWER = 0.98


@dataclass(frozen=True)
class KernelRow:
    """A kernel that is used. Times per call are the judge's; `ratio` is eager's over the kernel's, with interval."""

    op: str
    uses: int
    operators: tuple[str, ...]
    ratio: float | None
    low: float | None
    high: float | None
    eager_us: float | None
    kernel_us: float | None
    checked: tuple[str, ...]
    cached: bool

    @staticmethod
    def of(op: str, uses: int, sub: Subgraph, kernel: Kernel) -> KernelRow:
        """A row for one kernel."""
        t = kernel.verdict.timing
        operators = tuple(n.target.removeprefix("aten.") for n in sub.nodes)
        return KernelRow(
            op, uses, operators,
            ratio=t.ratio if t else None, low=t.low if t else None, high=t.high if t else None,
            eager_us=t.eager_us if t else None, kernel_us=t.kernel_us if t else None,
            checked=kernel.verdict.checked, cached=kernel.cached,
        )  # fmt: skip


@dataclass(frozen=True)
class RefusedRow:
    """A subgraph that stays with torch after all."""

    op: str
    uses: int
    operators: int
    reason: str


@dataclass(frozen=True)
class EndToEnd:
    """The whole model in a fresh process: microseconds per call, and the largest relative RMS error of an output."""

    original_us: float
    new_us: float
    ratio: float
    low: float
    high: float
    error: float

    @property
    def slower(self) -> bool:
        """Slower beyond what is allowed, and not by chance."""
        return self.ratio < _SLOWER and self.high < 1


@dataclass(frozen=True)
class Optimized:
    """Everything the report says."""

    model: str
    inputs: tuple[str, ...]
    gate: str
    numerics: str
    kernels: tuple[KernelRow, ...]
    refused: tuple[RefusedRow, ...]
    left: tuple[tuple[str, int], ...]
    operators: int
    covered: int
    end_to_end: EndToEnd
    note: str
    folder: str
    written: tuple[str, ...]
    replaced: tuple[str, ...]

    def with_replaced(self, names: tuple[str, ...]) -> Optimized:
        """The same, once it is known which files were there before."""
        return dataclasses.replace(self, replaced=names)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        data = dataclasses.asdict(self)
        data["left"] = dict(self.left)
        return data


def render(done: Optimized) -> str:
    """The text of report.md."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    host = f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    return environment.get_template("report.md.j2").render(done=done, host=host)
