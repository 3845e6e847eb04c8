"""What became of each compiled graph: its kernels, and for everything left with torch the reason.

`akg_dynamo.explain()` returns the records of this process, newest last.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.table import Table

from akg_dynamo.core.types import SplitReason, Timing, Verdict

_KEPT = 1000


@dataclass(frozen=True)
class KernelUse:
    """One region that runs a kernel of ours. `nodes` are the graph's operators it stands for.

    output: the sizes of its first output: what tells kernels of one name apart.
    promise: what its values were held to, where the numerics asked for mean one thing or another.
    """

    name: str
    digest: str
    nodes: tuple[str, ...]
    verdict: Verdict | None = None
    promise: str = ""
    output: str = ""

    @property
    def timing(self) -> Timing | None:
        """How it compared with eager, where that was measured."""
        return self.verdict.timing if self.verdict is not None else None


@dataclass(frozen=True)
class LeftNode:
    """One operator that torch runs, and why."""

    node: str
    target: str
    reason: SplitReason

    @property
    def why(self) -> str:
        """The reason, without a detail that only repeats the operator."""
        return self.reason.kind.value if self.reason.detail == self.target else str(self.reason)


@dataclass(frozen=True)
class Fallback:
    """A kernel that raised while the model ran, and was replaced by the original operators."""

    name: str
    digest: str
    error: str


@dataclass
class GraphReport:
    """One compiled graph. `state` is "ready", or "generating" while kernels are made in the background.

    notes: what was asked for, as a mode or an option, and changes nothing in this graph.
    rewrites: what was put otherwise before kernels were cut out, a sentence each.
    sizes: the largest that the kernels serve, where the graph leaves them open; for others it is listed again.
    """

    kind: str
    number: int
    operators: int
    kernels: tuple[KernelUse, ...] = ()
    left: tuple[LeftNode, ...] = ()
    fallbacks: list[Fallback] = field(default_factory=list)
    notes: tuple[str, ...] = ()
    rewrites: tuple[str, ...] = ()
    sizes: str = ""
    source: str = ""
    state: str = "ready"

    @property
    def reasons(self) -> Counter[str]:
        """How many operators were left for each reason."""
        return Counter(left.reason.kind.value for left in self.left)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Tables: the kernels, what stays with torch, what fell back."""
        fused = sum(len(k.nodes) for k in self.kernels)
        yield f"[bold]{self.kind} graph {self.number}[/]: {fused} of {self.operators} operators in kernels of ours"
        if self.state != "ready":
            yield f"  {self.state}"
        for note in self.notes:
            yield f"  without effect: {escape(note)}"
        for rewrite in self.rewrites:
            yield f"  rewritten: {escape(rewrite)}"
        if self.sizes:
            yield f"  for sizes: {escape(self.sizes)}; beyond these, kernels are judged anew"
        if self.kernels:
            yield _kernel_table(self.kernels)
        if self.left:
            table = Table("stays with torch", "nodes", "why")
            whys: dict[tuple[str, str], list[str]] = {}  # what differs from region to region is not told apart
            for n in self.left:
                whys.setdefault((n.target, n.reason.kind.value), []).append(n.why)
            for (target, kind), found in sorted(whys.items(), key=lambda item: -len(item[1])):
                table.add_row(target, str(len(found)), found[0] if len(set(found)) == 1 else kind)
            yield table
        for fallback in self.fallbacks:
            yield f"[red]{fallback.name} raised and was replaced by torch's operators[/]: {fallback.error}"


def _kernel_table(kernels: Iterable[KernelUse]) -> Table:
    table = Table("kernel", "writes", "uses", "ops", "verdict", "x eager", collapse_padding=True, pad_edge=False)
    uses: dict[str, list[KernelUse]] = {}
    for kernel in kernels:
        uses.setdefault(kernel.digest, []).append(kernel)
    for same in uses.values():
        first, timing = same[0], same[0].timing
        speed = f"{timing.ratio:.2f} ({timing.low:.2f}–{timing.high:.2f})" if timing is not None else "not timed"
        verdict = first.verdict.outcome.value if first.verdict is not None else "not judged"
        verdict += f", {first.promise}" if first.promise else ""
        table.add_row(first.name, first.output, str(len(same)), str(len(first.nodes)), verdict, speed)
    return table


class Records:
    """The reports of a process. A long-lived process that compiles without end keeps the newest."""

    def __init__(self) -> None:
        self._reports: deque[GraphReport] = deque(maxlen=_KEPT)
        self._lock = threading.Lock()
        self._next = 0

    def add(self, kind: str, operators: int) -> GraphReport:
        """A new, empty report."""
        with self._lock:
            report = GraphReport(kind, self._next, operators)
            self._next += 1
            self._reports.append(report)
        return report

    def all(self) -> list[GraphReport]:
        """The reports, oldest first."""
        with self._lock:
            return list(self._reports)

    def clear(self) -> None:
        """Forgets every report."""
        with self._lock:
            self._reports.clear()
            self._next = 0


records = Records()
