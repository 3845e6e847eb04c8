"""What the judge is asked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from akg_dynamo.agents.verifier.inputs import on_host
from akg_dynamo.agents.verifier.model_call import ModelCall
from akg_dynamo.cache.flags import EagerFlags
from akg_dynamo.core.types import Candidate, Subgraph


@dataclass(frozen=True)
class Relative:
    """A smaller subgraph with the same operators, and a candidate that runs the very device code of the job's."""

    subgraph: Subgraph
    candidate: Candidate


@dataclass(frozen=True)
class Backward:
    """A forward and a backward pass of a task as one subgraph, and how a ModelNew is called for it."""

    subgraph: Subgraph
    model: ModelCall


@dataclass(frozen=True)
class Job:
    """One candidate against the subgraph it claims to compute.

    numerics: "bounded", "eager" or "fast"; `rtol` belongs to "fast".
    want_values, want_timing: which of the two findings is asked for. Asking for them in two jobs lets the values be
        judged while other kernels still build, and the timing be taken afterwards, on quiet cores.
    want_cold: whether it is timed with cold caches as well.
    seed: the judge derives every random number it draws from this.
    trusted: written by rules. Trusted candidates share a warm process and are timed in it; any other gets a fresh one.
    threads: how many threads torch uses where the kernel will run; 0 is torch's default in the judge.
    flags: the switches under which eager runs; None: as they are in the process that submits the job.
    relatives: smaller ones of a large subgraph: what sizes do not change is judged on these.
    model: how a candidate's ModelNew is built and called, for a subgraph that a whole task became; None: it has `run`.
    memory_bytes: what judging may take; None: a quarter of what is free.
    backward: for a task with gradients, the passes on which a ModelNew's are judged.
    screens: what is looked at beside values and speed: "reading" (what its source does) and "running" (whether its
        kernels compute what it returns).
    reproduce: whether a verdict that is not RIGHT comes with a file that shows why.
    sanitize: whether a kernel that is right on a device is also run under compute-sanitizer, where that is installed.
    ordinal: which CUDA device, for a subgraph on one; None: the current one of the process that submits the job.
    """

    subgraph: Subgraph
    candidate: Candidate
    numerics: str = "bounded"
    build_dir: Path = Path()
    want_timing: bool = False
    want_cold: bool = False
    seed: int = 0
    trusted: bool = True
    want_values: bool = True
    rtol: float = 1e-2
    threads: int = 0
    timeout_s: float = 30.0
    build_timeout_s: float = 120.0
    timing_budget_s: float = 0.06
    flags: EagerFlags | None = None
    ordinal: int | None = None
    relatives: tuple[Relative, ...] = ()
    model: ModelCall | None = None
    backward: tuple[Backward, ...] = ()
    memory_bytes: int | None = None
    screens: frozenset[str] = frozenset()
    reproduce: bool = False
    sanitize: bool = False

    def on_host(self, *, interpreted: bool) -> Job:
        """The same of tensors on the host. `interpreted`: whether Triton kernels are to be."""
        model = self.model
        if model is not None:
            constants = tuple((i, t.cpu()) for i, t in model.constants)
            model = replace(model, constants=constants, interpreted=interpreted)
        return replace(self, subgraph=on_host(self.subgraph), model=model, screens=frozenset(), ordinal=None)

    @property
    def device(self) -> str:
        """The kind of device that all its tensors are on, "cpu" or "cuda"; empty if they are on several."""
        kinds = {s.device.partition(":")[0] for s in (*self.subgraph.inputs, *self.subgraph.output_specs)}
        return kinds.pop() if len(kinds) == 1 else ""
