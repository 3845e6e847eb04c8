"""torch's op_db samples through the product, as a program: the tests beside it run it, several at a time.

Reads operator names from standard input, one a line, and answers each with one line of JSON (`Result`). Every operator
is wrapped in pointwise work before and after, so that there is something to fuse with it, and runs with gate="correct":
values in inference, and values and gradients in training, against eager.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.opinfo.core import OpInfo, SampleInput
from torch.utils import _pytree as pytree

import akg_dynamo
from akg_dynamo.explanation import records

SKIPPED = {
    # Their values are undefined.
    **dict.fromkeys(
        ("empty", "empty_like", "empty_permuted", "empty_strided", "new_empty", "new_empty_strided"), "no values"
    ),
    # CUDA only.
    "jiterator_unary": "CUDA only",
    "jiterator_binary": "CUDA only",
    "jiterator_4inputs_with_extra_args": "CUDA only",
    "jiterator_binary_return_by_ref": "CUDA only",
    "jiterator_2inputs_2outputs": "CUDA only",
    # Wrong with every backend: its samples view storage that the wrapped function does not have.
    "as_strided.partial_views": "views storage beyond its input",
}


@dataclass
class Failure:
    """What went wrong with one sample. `aot_eager`: whether capture alone, without us, fails as well."""

    sample: int
    training: bool
    message: str
    aot_eager: bool


@dataclass
class Result:
    """One operator's answer.

    fusible: samples with pointwise work on a non-empty tensor; ran: how many of those ran a kernel of ours.
    """

    op: str
    samples: int = 0
    fusible: int = 0
    ran: int = 0
    failures: list[Failure] = field(default_factory=list)


def full_name(op: OpInfo) -> str:
    """The operator's name with its variant's."""
    return f"{op.name}.{op.variant_test_name}" if op.variant_test_name else str(op.name)


def operators() -> dict[str, OpInfo]:
    """The entries that take fp32 on the CPU and are not skipped, by full name."""
    named = ((full_name(op), op) for op in op_db if torch.float32 in op.supported_dtypes("cpu"))
    return {name: op for name, op in named if name not in SKIPPED}


def spread(samples: Iterator[SampleInput], count: int) -> list[SampleInput]:
    """`count` of the samples, evenly over all of them; 0 is all."""
    every = list(samples)
    if count == 0 or len(every) <= count:
        return every
    return [every[i * (len(every) - 1) // (count - 1)] for i in range(count)] if count > 1 else every[:1]


def before(x: torch.Tensor) -> torch.Tensor:
    """Pointwise work that changes no value, so that no operator leaves its domain."""
    return (x * 2.0) * 0.5 if x.is_floating_point() and x.layout is torch.strided else x


def after(x: object) -> object:
    """Pointwise work on a result."""
    if not isinstance(x, torch.Tensor) or x.layout is not torch.strided:
        return x
    if x.dtype is torch.bool:
        return torch.logical_not(x)
    return x * 0.5 + 0.25 if x.is_floating_point() or x.is_complex() else x + 1


class Wrapped:
    """A sample as a function of its tensors."""

    def __init__(self, op: OpInfo, sample: SampleInput) -> None:
        leaves, self.spec = pytree.tree_flatten((sample.input, sample.args, sample.kwargs))
        self.leaves = leaves
        self.places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
        self.tensors = [leaves[i] for i in self.places]
        self.op = op.op

    def function(self) -> Callable[..., Any]:
        """To be compiled."""
        leaves, places, spec, op = self.leaves, self.places, self.spec, self.op

        def call(*tensors: torch.Tensor) -> Any:
            filled = list(leaves)
            for place, tensor in zip(places, tensors, strict=True):
                filled[place] = before(tensor)
            first, args, kwargs = pytree.tree_unflatten(filled, spec)
            return pytree.tree_map(after, op(first, *args, **kwargs))

        return call

    def fusible(self, outputs: list[torch.Tensor]) -> bool:
        """Whether `before` or `after` computes anything on a non-empty real tensor."""
        touched = [t for t in self.tensors if t.is_floating_point()] + [t for t in outputs if not t.is_complex()]
        return any(t.layout is torch.strided and t.numel() > 0 for t in touched)


@dataclass
class Run:
    """What a function gave: its tensors and, in training, the gradients of its floating inputs."""

    outputs: list[torch.Tensor]
    gradients: list[torch.Tensor | None]


def run(function: Callable[..., Any], tensors: list[torch.Tensor], training: bool) -> Run:
    """Call it on copies, with the generator as every other run has it."""
    copies = [t.detach().clone() for t in tensors]
    if training:
        for copy, t in zip(copies, tensors, strict=True):
            copy.requires_grad_(t.requires_grad)
    torch.manual_seed(0)
    with contextlib.nullcontext() if training else torch.no_grad():
        outputs = [x for x in pytree.tree_leaves(function(*copies)) if isinstance(x, torch.Tensor)]
    gradients: list[torch.Tensor | None] = []
    ends = [x for x in outputs if x.requires_grad]
    starts = [x for x in copies if x.requires_grad]
    if training and ends and starts:
        torch.manual_seed(1)
        seeds = [torch.randn(x.shape, dtype=x.dtype) for x in ends]
        gradients = list(torch.autograd.grad(ends, starts, seeds, allow_unused=True))
    return Run([x.detach() for x in outputs], gradients)


def _dense(x: torch.Tensor) -> torch.Tensor:
    return x.to_dense() if x.layout is not torch.strided else x


def _near(actual: torch.Tensor, expected: torch.Tensor, exact: torch.Tensor | None) -> bool:
    if torch.allclose(actual, expected, rtol=1.3e-6, atol=1e-6, equal_nan=True):
        return True
    if exact is None or exact.shape != expected.shape or not expected.is_floating_point():
        return False
    a, e, x = actual.double(), expected.double(), exact.double()
    finite = e.isfinite() & x.isfinite()
    if not torch.equal(a[~finite].nan_to_num(), e[~finite].nan_to_num()):
        return False
    floor = 8 * torch.finfo(expected.dtype).eps * x[finite].abs().max()
    return bool((a - x)[finite].abs().max() <= 2 * (e - x)[finite].abs().max() + floor)


def difference(actual: Run, expected: Run, exact: Callable[[], Run | None]) -> str:
    """What differs beyond the contract; empty if nothing. `exact` gives the fp64 run, asked for only where needed."""
    for kind in ("outputs", "gradients"):
        mine: list[torch.Tensor | None] = getattr(actual, kind)
        theirs: list[torch.Tensor | None] = getattr(expected, kind)
        if len(mine) != len(theirs):
            return f"{len(mine)} {kind}, not {len(theirs)}"
        for i, (a, e) in enumerate(zip(mine, theirs, strict=True)):
            if a is None or e is None:
                if a is not e and (a if e is None else e).count_nonzero() != 0:  # type: ignore[union-attr]
                    return f"{kind}[{i}]: one is missing"
                continue
            a, e = _dense(a), _dense(e)
            if (a.shape, a.dtype) != (e.shape, e.dtype):
                return f"{kind}[{i}]: {a.dtype}{tuple(a.shape)}, not {e.dtype}{tuple(e.shape)}"
            if _near(a, e, None):
                continue
            oracle = exact()
            truth = getattr(oracle, kind)[i] if oracle is not None else None
            if not _near(a, e, _dense(truth) if truth is not None else None):
                return f"{kind}[{i}] {e.dtype}{tuple(e.shape)}: largest difference {_largest(a, e)}"
    return ""


def _largest(a: torch.Tensor, e: torch.Tensor) -> str:
    if e.is_complex():
        return f"{(a - e).abs().nan_to_num().max():.3g}"
    return f"{(a.double() - e.double()).abs().nan_to_num().max():.3g} of {e.double().abs().nan_to_num().max():.3g}"


def kernel_ran() -> bool:
    """Whether a graph compiled since the last `records.clear()` runs a kernel of ours that did not fall back."""
    return any(len(graph.kernels) > len(graph.fallbacks) for graph in akg_dynamo.explain())


def _attempt(wrapped: Wrapped, expected: Run, training: bool, backend: str) -> tuple[str, bool]:
    """What was wrong, if anything, and whether a kernel of ours ran."""

    def exact() -> Run | None:
        wide = [
            t.detach().double().requires_grad_(t.requires_grad) if t.is_floating_point() else t for t in wrapped.tensors
        ]
        try:
            return run(wrapped.function(), wide, training)
        except (RuntimeError, ValueError, TypeError):  # the operator has no fp64 form: there is no oracle
            return None

    torch._dynamo.reset()
    records.clear()
    options = {"gate": "correct"} if backend == "akg" else None
    try:
        compiled = torch.compile(wrapped.function(), backend=backend, options=options)
        actual = run(compiled, wrapped.tensors, training)
        ran = backend == "akg" and kernel_ran()
        return difference(actual, expected, exact), ran
    except Exception as error:  # noqa: BLE001 - a crash of any kind is this test's finding
        last = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {str(error)[:600]} ({last.filename}:{last.lineno})", False


def check(name: str, op: OpInfo, count: int) -> Result:
    """Every chosen sample of one operator, in inference and, where it has gradients, in training."""
    result = Result(name)
    modes = (False, True) if op.supports_autograd else (False,)
    for training in modes:
        for i, sample in enumerate(spread(op.sample_inputs("cpu", torch.float32, requires_grad=training), count)):
            wrapped = Wrapped(op, sample)
            try:
                expected = run(wrapped.function(), wrapped.tensors, training)
            except Exception:  # noqa: BLE001 - not a function of its tensors even in eager
                continue
            result.samples += 1
            message, ran = _attempt(wrapped, expected, training, "akg")
            fusible = wrapped.fusible(expected.outputs)
            result.fusible += fusible
            result.ran += ran and fusible
            if message:
                without_us, _ = _attempt(wrapped, expected, training, "aot_eager")
                result.failures.append(Failure(i, training, message, bool(without_us)))
    return result


def main() -> None:
    """Answer the operators named on standard input."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--samples", type=int, default=5, help="of each operator and mode, evenly spread; 0 is all")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    answers, sys.stdout = sys.stdout, sys.stderr  # an operator that prints must not break the protocol
    every = operators()
    for text in sys.stdin:
        name = text.strip()
        print(json.dumps(asdict(check(name, every[name], args.samples))), file=answers, flush=True)


if __name__ == "__main__":
    main()
