"""What the judge is asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from akg_dynamo.core.types import Candidate, Subgraph


@dataclass(frozen=True)
class Job:
    """One candidate against the subgraph it claims to compute.

    numerics: "bounded", "eager" or "fast"; `rtol` belongs to "fast".
    want_values, want_timing: which of the two findings is asked for. Asking for them in two jobs lets the values be
        judged while other kernels still build, and the timing be taken afterwards, on quiet cores.
    seed: the judge derives every random number it draws from this.
    trusted: written by rules. Trusted candidates share a warm process and are timed in it; any other gets a fresh one.
    threads: how many threads torch uses where the kernel will run; 0 is torch's default in the judge.
    """

    subgraph: Subgraph
    candidate: Candidate
    numerics: str = "bounded"
    build_dir: Path = Path()
    want_timing: bool = False
    seed: int = 0
    trusted: bool = True
    want_values: bool = True
    rtol: float = 1e-2
    threads: int = 0
    timeout_s: float = 30.0
    build_timeout_s: float = 120.0
    timing_budget_s: float = 0.06
