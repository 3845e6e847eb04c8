"""What benchmarks/judge.py has judged: kernels by rules from a kilobyte to a gigabyte, and kernels that break."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from akg_dynamo.agents.coder import by_rules
from akg_dynamo.agents.designer.rules import design
from akg_dynamo.core.types import (
    Arg,
    Candidate,
    OpNode,
    Outcome,
    Ref,
    SplitReason,
    Subgraph,
    Target,
    TensorSpec,
)


def spec(device: str, dtype: str, *shape: int) -> TensorSpec:
    """A contiguous tensor."""
    stride = [1]
    for n in reversed(shape[1:]):
        stride.insert(0, stride[0] * n)
    return TensorSpec(dtype, shape, tuple(stride), device)


def node(target: str, out: TensorSpec, *args: Arg) -> OpNode:
    """One call."""
    return OpNode(target, args, (), out)


def add_relu(s: TensorSpec) -> Subgraph:
    """relu(a + b)"""
    nodes = (node("aten.add.Tensor", s, Ref(0), Ref(1)), node("aten.relu.default", s, Ref(2)))
    return Subgraph((s, s), (), nodes, (3,))


def gelu_mul(s: TensorSpec) -> Subgraph:
    """gelu(a) * b"""
    nodes = (node("aten.gelu.default", s, Ref(0)), node("aten.mul.Tensor", s, Ref(2), Ref(1)))
    return Subgraph((s, s), (), nodes, (3,))


def softmax(s: TensorSpec) -> Subgraph:
    """softmax(a * 2)"""
    nodes = (node("aten.mul.Tensor", s, Ref(0), 2.0), node("aten._softmax.default", s, Ref(1), -1, False))
    return Subgraph((s,), (), nodes, (2,))


def row_sum(s: TensorSpec) -> Subgraph:
    """(a * a).sum(1)"""
    out = TensorSpec(s.dtype, s.shape[:1], (1,), s.device)
    nodes = (node("aten.mul.Tensor", s, Ref(0), Ref(0)), node("aten.sum.dim_IntList", out, Ref(1), (1,)))
    return Subgraph((s,), (), nodes, (2,))


_CPU = {
    "add_relu 1 KB": (add_relu, "float32", 256),
    "add_relu 64 KB": (add_relu, "float32", 128, 128),
    "add_relu 1 MB bf16": (add_relu, "bfloat16", 512, 1024),
    "gelu_mul 64 KB": (gelu_mul, "float32", 128, 128),
    "gelu_mul 1 MB": (gelu_mul, "float32", 512, 512),
    "softmax 40 KB": (softmax, "float32", 10, 1000),
    "softmax 1 MB": (softmax, "float32", 256, 1000),
    "row_sum 64 KB": (row_sum, "float32", 16, 1024),
    "row_sum 1 MB": (row_sum, "float32", 64, 4096),
}
_CUDA = {
    "add_relu 1 KB": (add_relu, "float32", 256),
    "add_relu 64 KB": (add_relu, "float32", 128, 128),
    "add_relu 4 MB bf16": (add_relu, "bfloat16", 2048, 1024),
    "add_relu 256 MB": (add_relu, "float32", 1 << 13, 1 << 13),
    "add_relu 1 GB": (add_relu, "float32", 1 << 14, 1 << 14),
    "gelu_mul 1 MB": (gelu_mul, "float32", 512, 512),
    "gelu_mul 64 MB bf16": (gelu_mul, "bfloat16", 1 << 15, 1 << 10),
    "softmax 40 KB": (softmax, "float32", 10, 1000),
    "softmax 16 MB": (softmax, "float32", 4096, 1000),
    "softmax 128 MB bf16": (softmax, "bfloat16", 2048, 32768),
    "row_sum 1 MB": (row_sum, "float32", 64, 4096),
    "row_sum 64 MB": (row_sum, "float32", 4096, 4096),
}


def subgraphs(device: str) -> dict[str, Subgraph]:
    """What kernels by rules are judged for."""
    return {name: make(spec(device, dtype, *shape)) for name, (make, dtype, *shape) in _TABLES[device].items()}


_TABLES = {"cpu": _CPU, "cuda": _CUDA}
SMALL = "add_relu 1 KB"

_GELU = "def run(*args): return (torch.nn.functional.gelu(args[0]) * args[1],)"
_ADD = "def run(*args): return (torch.relu(args[0] + args[1]),)"
ITSELF = {
    "cpu": {"add_relu 1 KB": _ADD, "gelu_mul 64 KB": _GELU, "gelu_mul 1 MB": _GELU},
    "cuda": {"gelu_mul 1 MB": _GELU, "gelu_mul 64 MB bf16": _GELU, "add_relu 1 KB": _ADD, "add_relu 256 MB": _ADD},
}
"""Eager as a candidate, by the subgraph that it computes."""


def candidate(source: str, device: str) -> Candidate:
    """A module with that source."""
    return Candidate("given", "import torch\n" + source, "cpp" if device == "cpu" else "triton_cuda")


@dataclass(frozen=True)
class Breaking:
    """A kernel for `SMALL` that does not return, and the verdicts that say so."""

    source: str
    outcomes: frozenset[Outcome]


def _breaking(text: str, *outcomes: Outcome) -> Breaking:
    return Breaking(f"def run(*args):\n    {text}\n    return (torch.relu(args[0] + args[1]),)", frozenset(outcomes))


_ENDS = (Outcome.CRASHED, Outcome.WRONG, Outcome.TIMED_OUT, Outcome.REJECTED)
BREAKING = {
    "hangs": _breaking("while True: pass", Outcome.TIMED_OUT),
    "sleeps": _breaking("import time; time.sleep(1000)", Outcome.TIMED_OUT),
    "forks without end": _breaking("import os\n    while True: os.fork()", *_ENDS),
    "starts threads without end": _breaking(
        "import threading, time\n    while True: threading.Thread(target=time.sleep, args=(99,)).start()", *_ENDS
    ),
    "allocates without end": _breaking("kept = []\n    while True: kept.append(torch.ones(1 << 24))", *_ENDS),
    "segmentation fault": _breaking("import ctypes; ctypes.string_at(0)", Outcome.CRASHED),
    "exits": _breaking("import os; os._exit(0)", Outcome.CRASHED),
    "overflows its stack": _breaking(
        "import sys; sys.setrecursionlimit(1 << 30)\n    def f(): return f() + 1\n    f()", *_ENDS
    ),
}
BREAKING_CUDA = {
    "hangs on the device": _breaking("torch.cuda._sleep(1 << 62)", Outcome.TIMED_OUT),
    "takes the context down": _breaking(
        "torch.zeros(3, device='cuda')[torch.tensor([5], device='cuda')]", Outcome.CRASHED
    ),
    "allocates on the device without end": _breaking(
        "kept = []\n    while True: kept.append(torch.zeros(1 << 26, device='cuda'))", *_ENDS
    ),
}


def by_rule(name: str, sub: Subgraph, target: Target, folder: Path) -> Candidate | None:
    """The kernel by rules, built; None, and the reason printed, if there is none."""
    designed = design(sub, target)
    if isinstance(designed, SplitReason):
        print(f"{name:22} not designed: {designed}")
        return None
    written = by_rules.write(sub, designed, target, name.replace(" ", "_"))
    by_rules.built(written, target, folder)
    return written
