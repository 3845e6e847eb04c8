"""Subgraphs and candidates written by hand, for the tests of the judge."""

from __future__ import annotations

import textwrap

from akg_dynamo.agents.verifier import Job, Judge
from akg_dynamo.core.types import Arg, Candidate, Dim, OpNode, Outcome, Ref, Subgraph, Symbol, TensorSpec


def contiguous(dtype: str, *shape: Dim) -> TensorSpec:
    stride: list[Dim] = []
    step: Dim = 1
    for d in reversed(shape):
        stride.insert(0, step)
        step = step * d if isinstance(step, int) and isinstance(d, int) else f"({step})*({d})"
    return TensorSpec(dtype, shape, tuple(stride))


def op(target: str, out: TensorSpec, *args: Arg, **kwargs: Arg) -> OpNode:
    return OpNode(target, args, tuple(sorted(kwargs.items())), out)


def single(target: str, out: TensorSpec, *inputs: TensorSpec, extra: tuple[Arg, ...] = ()) -> Subgraph:
    refs = tuple(Ref(i) for i in range(len(inputs)))
    return Subgraph(inputs, (), (op(target, out, *refs, *extra),), (len(inputs),))


def add_relu(n: int = 1000, dtype: str = "float32") -> Subgraph:
    s = contiguous(dtype, n)
    return Subgraph((s, s), (), (op("aten.add.Tensor", s, Ref(0), Ref(1)), op("aten.relu.default", s, Ref(2))), (3,))


def row_sum(rows: int = 64, columns: int = 4096, dtype: str = "float32") -> Subgraph:
    return single("aten.sum.dim_IntList", contiguous(dtype, rows), contiguous(dtype, rows, columns), extra=((1,),))


def dynamic_softmax() -> Subgraph:
    s = contiguous("float32", "s0", "s1")
    return Subgraph(
        (s,),
        (Symbol("s0", 2, None, 12), Symbol("s1", 2, 4096, 200)),
        (op("aten._softmax.default", s, Ref(0), -1, False),),
        (1,),
    )


def candidate(body: str, *, top: str = "", name: str = "k") -> Candidate:
    """A module whose `run(*args)` has this body; `torch` is imported."""
    source = (
        f"import torch\n{textwrap.dedent(top)}\ndef run(*args):\n{textwrap.indent(textwrap.dedent(body), '    ')}\n"
    )
    return Candidate(name, source, "cpp")


def job(sub: Subgraph, body: str, **options: object) -> Job:
    top = str(options.pop("top", ""))
    return Job(sub, candidate(body, top=top), **options)  # type: ignore[arg-type]


def assert_wrong(judge: Judge, sub: Subgraph, body: str, reason: str) -> None:
    (verdict,) = judge.judge([job(sub, body)])
    assert verdict.outcome is Outcome.WRONG, verdict
    assert reason in verdict.detail
