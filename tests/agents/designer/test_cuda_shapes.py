"""The mapping to GPUs at the sizes of a GPU: which phases, which loops, what is read how often. Nothing is computed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from akg_dynamo.agents.designer.rules import design
from akg_dynamo.agents.designer.variants import MOST, variants
from akg_dynamo.agents.sketch import to_text
from akg_dynamo.agents.sketch.ast import AxisDecl, DType, For, Sketch, Stmt
from akg_dynamo.agents.sketch.check import check
from akg_dynamo.agents.sketch.intexpr import evaluate
from akg_dynamo.agents.sketch.substitute import with_sizes
from akg_dynamo.core.types import Design, SplitReason, Subgraph, Target

CUDA = Target("cuda", "triton_cuda", "sm_90", "sm_90")
PROCESSORS = 132


class Phase:
    """A top-level loop: its programs, and what is in one."""

    def __init__(self, sketch: Sketch, outer: For) -> None:
        self._sizes = {c.name: c.value for c in sketch.constexprs}
        self.programs = 1
        body: tuple[Stmt, ...] = (outer,)
        while isinstance(body[0], For) and body[0].parallel:
            (loop,) = body
            assert isinstance(loop, For)
            self.programs *= -(-evaluate(loop.stop, self._sizes) // self._lanes(loop.step))
            body = loop.body
        self.body = body
        constexprs = sketch.constexprs
        self.text = to_text(Sketch("phase", (), (), constexprs, (outer,)))

    def _lanes(self, step: str | int | None) -> int:
        return 1 if step is None else self._sizes[step] if isinstance(step, str) else step

    @property
    def held(self) -> int:
        """The lanes of the axes that a program holds whole."""
        return math.prod(self._lanes(s.size) for s in self.body if isinstance(s, AxisDecl))

    @property
    def loops(self) -> int:
        """How many loops a program runs."""
        return sum(1 for s in _statements(self.body) if isinstance(s, For))

    def reads(self, tensor: str) -> int:
        """How many loads of a tensor there are."""
        return self.text.count(f"load({tensor}[")


def _statements(body: tuple[Stmt, ...]) -> Iterator[Stmt]:
    for s in body:
        yield s
        if isinstance(s, For):
            yield from _statements(s.body)


@pytest.fixture
def subgraph(to_subgraph: Callable[..., Any]) -> Callable[..., Subgraph]:
    """`subgraph(f, *shapes)`: `f` for tensors of these shapes, which are never allocated."""

    def of(f: Callable[..., Any], *shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Subgraph:
        with FakeTensorMode():
            found: Subgraph = to_subgraph(f, [torch.empty(s, dtype=dtype) for s in shapes], "real")[0]
        return found

    return of


@pytest.fixture
def phases(subgraph: Callable[..., Subgraph]) -> Callable[..., list[Phase]]:
    """`phases(f, *shapes)`: the phases of its first design."""

    def of(f: Callable[..., Any], *shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[Phase]:
        found = design(subgraph(f, *shapes, dtype=dtype), CUDA)
        assert isinstance(found, Design)
        check(found.sketch)
        assert all(isinstance(s, For) and s.parallel for s in found.sketch.body)
        assert not any(t.dtype is DType.F64 for t in found.sketch.tensors)
        assert "f64" not in to_text(found.sketch)
        sketch = with_sizes(found.sketch, {n: v for n, v in found.symbols if isinstance(v, int)})
        return [Phase(sketch, loop) for loop in sketch.body if isinstance(loop, For)]

    return of


Phases = Callable[..., list[Phase]]


def test_pointwise_is_one_flat_tile(phases: Phases) -> None:
    (phase,) = phases(lambda x, y: torch.relu(x + y), (4096, 4096), (4096, 4096))
    assert phase.programs == 4096 * 4096 // 1024
    assert phase.loops == 0


def test_a_broadcast_needs_no_division(phases: Phases) -> None:
    (phase,) = phases(lambda x, b: x + b, (8192, 3072), (3072,))
    assert "//" not in phase.text
    assert phase.text.count("range(") == 2


def test_a_transposition_is_a_square(phases: Phases) -> None:
    (phase,) = phases(lambda x, y: x.t() + y, (4096, 8192), (8192, 4096))
    assert phase.programs == (4096 // 64) * (8192 // 64)


@pytest.mark.parametrize("columns", [1000, 4096, 16384, 32000])
def test_a_row_that_fits_is_read_once(columns: int, phases: Phases) -> None:
    for f in (
        lambda x: torch.softmax(x, -1),
        lambda x: F.layer_norm(x, (columns,)),
        lambda x: x / x.norm(dim=1)[:, None],
    ):
        (phase,) = phases(f, (8192, columns))
        assert phase.loops == 0
        assert phase.reads("x0") == 1
        assert phase.held >= columns


def test_a_long_row_is_read_once_for_all_reductions(phases: Phases) -> None:
    """The maximum and the exponentials, the mean and the squares: one loop; the results are a second."""
    for f in (lambda x: torch.softmax(x, -1), lambda x: F.layer_norm(x, (50257,))):
        (phase,) = phases(f, (4096, 50257))
        assert phase.loops == 2
        assert phase.reads("x0") == 2


def test_short_rows_share_a_program(phases: Phases) -> None:
    (phase,) = phases(lambda x: torch.softmax(x, -1), (1 << 18, 64))
    assert phase.programs <= (1 << 18) // 16
    assert phase.loops == 0


@pytest.mark.parametrize(
    ("f", "shape"),
    [
        (lambda x: x.sum(), (1 << 28,)),
        (lambda x: x.sum(0), (16384, 4096)),
        (lambda x: x.sum(0), (1 << 20, 64)),
        (lambda x: x.sum(-1), (16, 1 << 22)),
        (lambda x: x.std((0, 2, 3)), (64, 64, 112, 112)),
        (lambda x: x.argmax(), (1 << 26,)),
        (lambda x: torch.logsumexp(x, 1), (8, 1 << 20)),
    ],
)
def test_few_results_are_reduced_in_chunks(f: Callable[..., Any], shape: tuple[int, ...], phases: Phases) -> None:
    parts, combine = phases(f, shape)
    assert parts.programs >= 3 * PROCESSORS // 2
    assert parts.reads("x0") == 1
    assert combine.reads("x0") == 0


def test_many_results_are_reduced_at_once(phases: Phases) -> None:
    assert len(phases(lambda x: x.sum(1), (128, 4096, 1024))) == 1
    assert len(phases(lambda x: x.sum(-1), (16384, 4096))) == 1


def test_few_long_rows_take_three_phases(phases: Phases) -> None:
    """Their statistics in chunks, brought together, and what is made of them with every processor."""
    for f in (lambda x: torch.softmax(x, -1), lambda x: F.layer_norm(x, (1 << 20,))):
        parts, combine, results = phases(f, (8, 1 << 20))
        assert parts.reads("x0") == 1
        assert combine.reads("x0") == 0
        assert results.reads("x0") == 1
        assert results.programs >= 2 * PROCESSORS


def test_losses_over_a_vocabulary_read_it_once(phases: Phases) -> None:
    def loss(x: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(x, torch.zeros(8192, dtype=torch.int64))

    rows, total = phases(loss, (8192, 32000))
    assert rows.loops == 1
    assert rows.reads("x0") == 2  # the row, and its one logit
    assert total.reads("x0") == 0


def test_sums_stay_in_the_dtype_of_a_gpu(phases: Phases) -> None:
    """Checked in `phases` for all of the above; 16-bit inputs are added up in f32."""
    (phase,) = phases(lambda x: x.mean(-1), (4096, 4096), dtype=torch.bfloat16)
    assert "f32" in phase.text


@pytest.mark.parametrize(
    ("f", "shape", "once"),
    [
        (lambda x: x.sum(-1), (16384, 1024), True),
        (lambda x: (x * x).mean(0), (65536, 1024), True),
        (torch.sum, (1 << 24,), True),
        (lambda x: torch.logsumexp(x, -1), (4096, 8192), True),  # held whole, so that it is read once
        (lambda x: x.sum(-1), (2048, 1024), False),  # may be in the cache
        (lambda x: x.sum(-1), (1 << 18, 1024), False),  # is much more
        (lambda x: torch.softmax(x, -1), (16384, 1024), False),  # writes as much
        (lambda x: x / x.sum(), (1 << 24,), False),  # is read again by the next phase
        (torch.tanh, (1 << 24,), False),
    ],
)
def test_what_streams_past_the_cache(phases: Phases, f: Callable[..., Any], shape: tuple[int, ...], once: bool) -> None:
    """A reduction of a few times what the cache holds does not push out what is there."""
    assert ('"once"' in phases(f, shape)[0].text) is once


def test_sums_of_exponentials_take_short_trips(subgraph: Callable[..., Subgraph]) -> None:
    """They wait for one another: 8 elements of each of their tiles for a thread, and other programs meanwhile."""
    found = design(subgraph(lambda x: torch.logsumexp(x, -1), (4096, 50257)), CUDA)
    assert isinstance(found, Design)
    sizes = {c.name: c.value for c in found.sketch.constexprs}
    assert sizes["BL"] == 8 * 32 * sizes["num_warps"] == 2048


def test_variants_differ_and_begin_with_the_design(subgraph: Callable[..., Subgraph]) -> None:
    for f, shape in (
        (torch.tanh, (1 << 24,)),
        (lambda x: torch.softmax(x, -1), (4096, 50257)),
        (torch.sum, (1 << 26,)),
    ):
        sub = subgraph(f, shape)
        found = variants(sub, CUDA)
        assert isinstance(found, list)
        assert found[0] == design(sub, CUDA)
        assert 2 < len(found) <= MOST
        assert len({to_text(d.sketch) for d in found}) == len(found)
        for d in found:
            check(d.sketch)


def test_a_cpu_has_one_variant(subgraph: Callable[..., Subgraph]) -> None:
    sub = subgraph(torch.tanh, (64,))
    assert variants(sub, Target()) == [design(sub, Target())]


def test_no_rule_no_variant(subgraph: Callable[..., Subgraph]) -> None:
    sub = subgraph(lambda x: torch.sort(x)[0], (64,))
    assert isinstance(variants(sub, CUDA), SplitReason)
