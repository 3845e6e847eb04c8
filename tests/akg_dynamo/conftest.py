"""A solver whose kernels are the reference subgraphs: what is tested here is the runtime around the kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import pytest
import torch

from akg_dynamo import capture
from akg_dynamo.core.types import Candidate, Kernel, Outcome, SplitReason, Subgraph, Verdict
from akg_dynamo.fusion.reference import reference
from akg_dynamo.options import Options

Run = Callable[..., tuple[torch.Tensor, ...]]


@dataclass
class ReferenceSolver:
    """Stands in for generation. `wrap` and `wrap_into` may replace what a kernel runs; `calls` counts kernels run."""

    wrap: Callable[[Subgraph, Run], Run] = lambda sub, run: run
    wrap_into: Callable[[Subgraph, Run], Run] = lambda sub, run_into: run_into
    pairs: tuple[tuple[int, int], ...] = ()  # every kernel's IN_PLACE
    reads_addresses: bool = False  # every kernel's READS_ADDRESSES
    solved: list[Subgraph] = field(default_factory=list)
    quarantined: list[str] = field(default_factory=list)
    calls: int = 0

    def solve(self, subgraphs: Sequence[Subgraph], options: Options) -> dict[str, Kernel | SplitReason]:
        # One for each: the pipeline asks with every cut, from which generation learns how often it occurs.
        return {digest: self.kernel(sub) for digest, sub in {sub.digest: sub for sub in subgraphs}.items()}

    def kernel(self, sub: Subgraph) -> Kernel:
        self.solved.append(sub)
        wrapped = self.wrap(sub, exact_layout(sub, reference(sub)))

        def run(*args: object) -> tuple[torch.Tensor, ...]:
            self.calls += 1
            return wrapped(*args)

        run_into = self.wrap_into(sub, writing_into(run, len(sub.outputs)))
        candidate = Candidate("fused", "", "cpp")
        right = Verdict(Outcome.RIGHT)
        return Kernel(
            "fused", sub.digest, sub.digest, candidate, right, run, run_into, self.pairs, self.reads_addresses
        )

    def quarantine(self, kernel: Kernel, reason: str, options: Options) -> None:
        self.quarantined.append(kernel.key)


def exact_layout(sub: Subgraph, run: Run) -> Run:
    """A kernel reads its inputs with the strides of their specs, whatever the tensors say: so must its stand-in."""

    def go(*args: object) -> tuple[torch.Tensor, ...]:
        for arg, spec in zip(args, sub.inputs, strict=False):
            assert isinstance(arg, torch.Tensor)
            if all(isinstance(d, int) for d in (*spec.shape, *spec.stride)):
                assert tuple(arg.shape) == spec.shape
                if arg.numel():
                    pairs = zip(spec.shape, spec.stride, arg.stride(), strict=True)
                    assert all(size == 1 or want == have for size, want, have in pairs), (spec, arg.stride())
        return run(*args)

    return go


def writing_into(run: Run, n_outputs: int) -> Run:
    """`run_into` as a kernel's module has it: what it is given is overwritten, whoever else may be reading it."""

    def run_into(*args: object) -> tuple[torch.Tensor, ...]:
        given: Sequence[torch.Tensor] = args[:n_outputs]  # type: ignore[assignment]
        outputs = run(*args[n_outputs:])
        for old, new in zip(given, outputs, strict=True):
            assert (old.shape, old.stride(), old.dtype) == (new.shape, new.stride(), new.dtype)
            old.copy_(new)
        return tuple(given)

    return run_into


@pytest.fixture
def solver(monkeypatch: pytest.MonkeyPatch) -> Iterator[ReferenceSolver]:
    """Installs a `ReferenceSolver`, and starts and ends with a clean Dynamo."""
    stand_in = ReferenceSolver()
    monkeypatch.setattr(capture, "solve", stand_in.solve)
    monkeypatch.setattr(capture, "quarantine", stand_in.quarantine)
    torch._dynamo.reset()
    yield stand_in
    torch._dynamo.reset()
