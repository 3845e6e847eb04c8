"""The nouns of the pipeline: what passes from one stage to the next. All frozen, all plain data.

capture -> FX graph -> `FusionPlan` -> `Subgraph` -> `Task` -> `Design` (a sketch and its bindings) -> `Candidate`
-> `Verdict` -> executor.

A **dim** is an `int`, or a `str`: an integer expression over the subgraph's symbols ``s0, s1, …`` with
``+ - * // % min max`` and parentheses. Symbols and values are renumbered in order of first use, so that the same
operation has the same `Subgraph` (and the same digest) wherever it occurs.
"""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

from akg_dynamo.core.protection import Protection

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from akg_dynamo.agents.sketch.ast import Sketch

Dim: TypeAlias = "int | str"


# --------------------------------------------------------------------------------------------------------------------
# Subgraphs


@dataclass(frozen=True)
class TensorSpec:
    """What is known of a tensor at compile time. Strides are in elements; `dtype` is torch's name ("float32")."""

    dtype: str
    shape: tuple[Dim, ...]
    stride: tuple[Dim, ...]
    device: str = "cpu"


@dataclass(frozen=True)
class Symbol:
    """A size that is not known at compile time: `lo <= name <= hi`, and the value it had when the graph was traced."""

    name: str
    lo: int
    hi: int | None
    hint: int


@dataclass(frozen=True)
class Ref:
    """Value number `index` of a subgraph: the inputs first, then one per node."""

    index: int


@dataclass(frozen=True)
class SymInt:
    """An integer argument that is an expression over symbols."""

    expr: str


@dataclass(frozen=True)
class TorchConst:
    """A torch constant in an argument list, as source text: ``torch.float32``, ``torch.strided``, ``device('cpu')``."""

    text: str


Arg: TypeAlias = "bool | int | float | complex | str | Ref | SymInt | TorchConst | tuple[Arg, ...] | None"


@dataclass(frozen=True)
class OpNode:
    """One call: ``target`` is an overload's full name ("aten.add.Tensor") or "getitem"."""

    target: str
    args: tuple[Arg, ...]
    kwargs: tuple[tuple[str, Arg], ...]
    out: TensorSpec | tuple[TensorSpec | None, ...]


@dataclass(frozen=True)
class Subgraph:
    """A functional piece of an ATen graph: original operators, canonical numbering, no reference to any module.

    inputs: the tensors it reads, in order of first use. It is called with these, and then one int per symbol.
    outputs: value numbers it returns, always as a tuple. No output is an input or a view of one.
    """

    inputs: tuple[TensorSpec, ...]
    symbols: tuple[Symbol, ...]
    nodes: tuple[OpNode, ...]
    outputs: tuple[int, ...]

    @cached_property
    def text(self) -> str:
        """Canonical text: two subgraphs are the same operation exactly when their texts are equal."""
        symbols = [(s.name, s.lo, s.hi) for s in self.symbols]  # the hint is not part of what it computes
        lines = [f"in {spec}" for spec in self.inputs]
        lines += [f"sym {s}" for s in symbols]
        lines += [f"{n.target}{n.args}{n.kwargs} -> {n.out}" for n in self.nodes]
        lines.append(f"out {self.outputs}")
        return "\n".join(lines)

    @cached_property
    def digest(self) -> str:
        """Hex sha256 of the canonical text."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def spec_of(self, value: int) -> TensorSpec | tuple[TensorSpec | None, ...]:
        """The spec of value number `value`."""
        n = len(self.inputs)
        return self.inputs[value] if value < n else self.nodes[value - n].out

    @property
    def device(self) -> str:
        """The type of the device that it computes on."""
        return self.output_specs[0].device if self.outputs else "cpu"

    @property
    def output_specs(self) -> tuple[TensorSpec, ...]:
        """The specs of what it returns."""
        specs = tuple(self.spec_of(v) for v in self.outputs)
        assert all(isinstance(s, TensorSpec) for s in specs), "a subgraph returns tensors only"
        return specs  # type: ignore[return-value]


class SplitReasonType(enum.Enum):
    """Why a node stays with torch."""

    MATMUL = "matrix product: torch's library is used"
    CONV = "convolution: torch's library is used"
    ATTENTION = "attention: torch's fused kernel is used"
    SORT = "sort, top-k or another selection: stays with torch"
    VIEW = "a view: costs nothing, stays with torch"
    MUTATION = "writes into an existing tensor"
    RANDOM = "draws random numbers: the stream must stay torch's"
    DTYPE = "a dtype no lowering handles"
    DEVICE = "not on the device being compiled for"
    DATA_DEPENDENT = "its output's shape depends on data"
    UNSUPPORTED = "no rule for this operator"
    NOT_TENSOR = "does not compute a tensor"
    TOO_SMALL = "nothing to gain: too little work saved"
    DESIGN = "the designer found no sketch for it"
    NOT_RIGHT = "the kernel was judged wrong"
    NO_GAIN = "the kernel was right but not faster"
    BUILD = "the kernel did not build"
    NOT_JUDGED = "the judge could not finish: nothing is known of the kernel"
    NOT_CACHED = "not in the cache, and nothing is generated in this mode"
    BUDGET = "the compile budget was spent"
    ELSEWHERE = "another process is generating it"
    RAISED = "the kernel raised at run time"


@dataclass(frozen=True)
class SplitReason:
    """A typed "no", for one node or one subgraph, with what is particular to it."""

    kind: SplitReasonType
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.kind.value}{': ' + self.detail if self.detail else ''}"


# --------------------------------------------------------------------------------------------------------------------
# Designs and candidates


class Role(enum.Enum):
    """What a sketch's tensor is bound to."""

    INPUT = "input"
    OUTPUT = "output"
    SCRATCH = "scratch"


@dataclass(frozen=True)
class TensorBinding:
    """Which storage a sketch's tensor names.

    index: position among the subgraph's inputs or outputs (ignored for scratch).
    offset: elements from that tensor's first element (a slice of an input is a tensor of the sketch with an offset).
    size: for scratch, how many elements to allocate.
    """

    tensor: str
    role: Role
    index: int = 0
    offset: Dim = 0
    size: Dim = 0


@dataclass(frozen=True)
class Design:
    """A Designer's answer: a size-generic sketch, and what its names mean for one subgraph.

    symbols: for each of the sketch's symbols, in its order, the value as a dim over the subgraph's symbols. Static
        shapes give ints; so one sketch (and one build) serves every subgraph that differs in sizes only.
    """

    sketch: Sketch
    tensors: tuple[TensorBinding, ...]
    symbols: tuple[tuple[str, Dim], ...]


@dataclass(frozen=True)
class Target:
    """What to generate for. `isa` is the CPU's instruction set or the GPU's compute capability."""

    backend: str = "cpu"
    dsl: str = "cpp"
    arch: str = "native"
    isa: str = ""


@dataclass(frozen=True)
class Candidate:
    """A kernel as a self-contained Python module (KernelBench's answer format).

    The module needs torch and the DSL's compiler, nothing of AKG, and defines:
      ``run(*tensors, *symbols) -> tuple[Tensor, ...]``   the subgraph's inputs, then one int per symbol; fresh outputs
                                                          with exactly the shape, strides and dtype of `output_specs`
      ``class ModelNew(torch.nn.Module)``                 the same, as KernelBench calls it
      ``run_into(*outputs, *tensors, *symbols)``          (optional) `run` in the memory of dead tensors, one for each
                                                          output and laid out like it
      ``IN_PLACE``                                        (optional) pairs (output, input): that one may be the other
      ``build() -> None``                                 compiles what is not compiled yet (safe in parallel)
    Before executing the module a global ``BUILD_DIR`` may be set: where compiled objects are kept.
    """

    name: str
    source: str
    dsl: str
    sketch_text: str = ""
    device_source: str = field(default="", repr=False)

    @cached_property
    def digest(self) -> str:
        """Hex sha256 of the module's source."""
        return hashlib.sha256(self.source.encode()).hexdigest()


# --------------------------------------------------------------------------------------------------------------------
# Verdicts


class Outcome(enum.Enum):
    """What the judge says of a candidate."""

    RIGHT = "right"
    WRONG = "wrong"
    BUILD_FAILED = "build failed"
    CRASHED = "crashed"
    TIMED_OUT = "timed out"
    REJECTED = "rejected"  # for what was seen while it was timed, whatever it returned
    REFUSED = "refused"  # for what its source does, without running it
    DEGENERATE = "degenerate task"
    NOT_JUDGED = "not judged"


class Trick(enum.Enum):
    """What a candidate that did not pass was seen to do. Reports file verdicts under these; `detail` says the rest."""

    CALLS_TORCH = "computes with torch or a vendor library"
    CALLS_REFERENCE = "calls the reference or inherits from it"
    HIDES_CALLS = "hides what it calls"
    DECOY = "launches a kernel whose result is not used"
    PATCHES = "changes functions that are not its own"
    LOOKS_AROUND = "looks for the judge or for what is expected"
    FORGES = "forges an answer, or ends before giving one"
    CLOCKS = "reads or changes clocks"
    THREADS = "starts threads or processes"
    UNSYNCHRONISED = "leaves work unfinished when it returns"
    STALE_MEMORY = "relies on memory that it did not write"
    REPLAYS = "returns an old output"
    DRIFTS = "gives different outputs for the same inputs"
    CONSTANT = "returns zeros, a constant or its input"
    STRUCTURE = "is right only for inputs of some structure"
    SHAPE = "is right only for some shapes or layouts"
    PRECISION = "is less precise than eager"
    OUTLIERS = "has a few elements that are far off"
    VALUES = "computes something else"
    FORM = "returns another dtype, shape, stride, device or number of outputs"
    SUBCLASS = "returns what is not a plain tensor"
    MUTATES = "writes into its inputs"
    ALIASES = "returns memory that is not its own"
    OUT_OF_BOUNDS = "reads or writes out of bounds, or races"
    ESCAPES = "reaches for files, the network, secrets or other programs"
    EXHAUSTS = "takes more time, memory or processes than it may, or crashes"
    GRADIENTS = "returns outputs without gradients, or with wrong ones"
    TOO_FAST = "claims a speed that the hardware does not have"


@dataclass(frozen=True)
class Timing:
    """A/B result: `ratio` is eager's time over the kernel's, with its 95% interval; times in microseconds per call.

    On a device that queues work, what a call costs is the larger of its device time, given apart, and its host time.
    *_cold_us: of a call whose data and code no cache holds (on a device, its data); 0 where that was not asked for, or
    is less than the judge's clock can tell.
    """

    ratio: float
    low: float
    high: float
    eager_us: float
    kernel_us: float
    eager_device_us: float = 0.0
    kernel_device_us: float = 0.0
    eager_cold_us: float = 0.0
    kernel_cold_us: float = 0.0

    @property
    def cold_ratio(self) -> float:
        """Eager's time over the kernel's with cold caches; 0 where it is not known."""
        return self.eager_cold_us / self.kernel_cold_us if self.eager_cold_us and self.kernel_cold_us else 0.0

    def wins(self, threshold: float = 1.02) -> bool:
        """Whether the whole interval lies above `threshold`."""
        return self.low > threshold


@dataclass(frozen=True)
class Verdict:
    """Two separate findings: *right* (depends on code and arch) and *worth it* (`timing`: on device, threads, size).

    detail: for WRONG and the failures, what was seen: output, input description, seed, error against allowance.
    checked: which inputs were tried, as the report states them.
    refuses: inputs that the task's Model takes and the candidate raises on.
    unjudged: what was not tried, and why.
    tricks: what it was seen to try, the most telling first.
    seed: what every number that was drawn follows from.
    reproduction: the text of a program that shows what is wrong, if it was asked for.
    phases: what the judging took, in seconds: spawn, import, values, oracle, timing.
    protection: what the process that ran it was kept from.
    """

    outcome: Outcome
    detail: str = ""
    checked: tuple[str, ...] = ()
    timing: Timing | None = None
    build_s: float = 0.0
    judge_s: float = 0.0
    tricks: tuple[Trick, ...] = ()
    seed: int = 0
    reproduction: str = field(default="", repr=False)
    phases: tuple[tuple[str, float], ...] = ()
    protection: Protection = field(default_factory=Protection)
    refuses: tuple[str, ...] = ()
    unjudged: tuple[str, ...] = ()


@dataclass(frozen=True)
class Kernel:
    """A judged kernel, loaded and ready to be called: ``run(*tensors, *symbols) -> tuple of tensors``.

    key: what it is filed under in the cache. digest: of the subgraph it computes. run_into,
        in_place: as in `Candidate`. reads_addresses: of its inputs it asks nothing but where they begin.
    """

    name: str
    key: str
    digest: str
    candidate: Candidate
    verdict: Verdict
    run: Callable[..., tuple[torch.Tensor, ...]] = field(repr=False)
    run_into: Callable[..., tuple[torch.Tensor, ...]] | None = field(default=None, repr=False)
    in_place: tuple[tuple[int, int], ...] = ()
    reads_addresses: bool = False
    cached: bool = False

    @property
    def source(self) -> str:
        """The module's text."""
        return self.candidate.source
