"""Pooling as torch defines it, with windows of every form, on edges, in every dtype and layout."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from akg_dynamo.agents.coder import by_rules, triton_module
from akg_dynamo.agents.coder.module import load, render
from akg_dynamo.agents.designer.rules import design
from akg_dynamo.agents.lowering.cpp import lower
from akg_dynamo.agents.lowering.triton_interpreter import interpreted
from akg_dynamo.core.types import Design, SplitReason, Subgraph, Target

H200 = Target("cuda", "triton_cuda", "sm_90", "sm_90")
Pool = Callable[[torch.Tensor], torch.Tensor]

QUICK = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@st.composite
def _sides(draw: Any, rank: int, dilated: bool) -> list[tuple[int, int, int, int, int]]:
    """(length, size, stride, padding, dilation) for each dim a window slides over."""
    found, places = [], 30
    for _ in range(rank):
        size = draw(st.integers(1, min(5, places)))
        places //= size
        dilation = draw(st.integers(1, 3)) if dilated else 1
        padding = draw(st.integers(0, size // 2))
        reach = (size - 1) * dilation + 1
        least = reach - 2 * padding if dilated else size  # (torch takes no mean of a window larger than x)
        length = draw(st.integers(max(1, least), reach + 8))
        found.append((length, size, draw(st.integers(1, 4)), padding, dilation))
    return found


@st.composite
def _max_pools(draw: Any) -> tuple[Pool, torch.Tensor]:
    rank = draw(st.integers(2, 3))
    lengths, *form = map(list, zip(*draw(_sides(rank, True)), strict=True))
    ceil_mode = draw(st.booleans())
    kind = draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.int8]))
    function: Any = F.max_pool2d if rank == 2 else F.max_pool3d
    if rank == 3 and not kind.is_floating_point:
        kind = torch.float32
    x = _numbers((*draw(st.sampled_from([(2, 3), (3,)])), *lengths), kind, draw(st.integers(0, 99)))
    return (lambda x: function(x, *form, ceil_mode=ceil_mode)), _laid_out(x, draw(st.booleans()), rank)


@st.composite
def _average_pools(draw: Any) -> tuple[Pool, torch.Tensor]:
    rank = draw(st.integers(1, 3))
    lengths, *form = map(list, zip(*draw(_sides(rank, False)), strict=True))
    ceil_mode, padded = draw(st.booleans()), draw(st.booleans())
    more = {"divisor_override": draw(st.sampled_from([None, 5]))} if rank > 1 else {}
    kinds = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
    kind = draw(st.sampled_from(kinds if rank < 3 else kinds[:2]))
    function: Any = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[rank - 1]
    x = _numbers((*draw(st.sampled_from([(2, 3), (3,)])), *lengths), kind, draw(st.integers(0, 99)))
    return (lambda x: function(x, *form[:3], ceil_mode, padded, **more)), _laid_out(x, draw(st.booleans()), rank)


def _numbers(shape: tuple[int, ...], kind: torch.dtype, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    if not kind.is_floating_point:
        return torch.randint(-100, 100, shape, generator=generator).to(kind)
    x = torch.randn(shape, generator=generator).to(kind)
    return torch.where(torch.rand(shape, generator=generator) < 0.03, seed % 3 * math.inf - math.inf, x).to(kind)


def _laid_out(x: torch.Tensor, channels_last: bool, rank: int) -> torch.Tensor:
    if channels_last and rank > 1 and x.dim() == rank + 2:
        return x.to(memory_format=torch.channels_last if rank == 2 else torch.channels_last_3d)
    return x


@QUICK
@given(_max_pools())
def test_maxima_mean_what_torch_means(
    designed: Callable[..., Design], designed_for_cuda: Callable[..., Design], case: tuple[Pool, torch.Tensor]
) -> None:
    pool, x = case
    designed(pool, x)
    designed_for_cuda(pool, x)


@QUICK
@given(_average_pools())
def test_means_mean_what_torch_means(
    designed: Callable[..., Design], designed_for_cuda: Callable[..., Design], case: tuple[Pool, torch.Tensor]
) -> None:
    pool, x = case
    designed(pool, x)
    designed_for_cuda(pool, x)


def _several(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return (
        F.max_pool2d(x, 3, 2, 1),
        F.max_pool2d((x * 2).relu(), (2, 3), (3, 1), (1, 0), ceil_mode=True),
        F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
        F.avg_pool2d(x + 1, (2, 4), (1, 4), (0, 2), count_include_pad=False),
    )


AT_EDGES = [
    torch.randn(2, 3, 13, 71),
    torch.randn(2, 3, 13, 71).bfloat16(),
    torch.randn(2, 35, 6, 7).to(memory_format=torch.channels_last),
    torch.full((1, 2, 5, 40), -math.inf),
    torch.randn(2, 3, 13, 71).index_fill(3, torch.tensor([0, 40]), math.nan),
    torch.randn(2, 3, 2, 3),
]


@pytest.mark.parametrize("x", AT_EDGES, ids=["f32", "bf16", "channels last", "-inf", "nan", "tiny"])
def test_in_cpp(lowered: Callable[..., None], x: torch.Tensor) -> None:
    """Rows that are longer than a vector and end within one."""
    lowered(_several, x)


@pytest.mark.parametrize("stride", [1, 2, 3, 8, 9])
@pytest.mark.parametrize("kind", [torch.float64, torch.int64, torch.uint8, torch.float16])
def test_strides_in_cpp(lowered: Callable[..., None], stride: int, kind: torch.dtype) -> None:
    """Strided reads that hang over both edges, by shuffles and one by one."""
    x = torch.randint(0, 200, (3, 2, 70 * stride + 1)).to(kind)
    lowered(lambda x: F.max_pool2d(x, (1, 4), (1, stride), (0, 2)), x)


@pytest.mark.parametrize("x", AT_EDGES, ids=["f32", "bf16", "channels last", "-inf", "nan", "tiny"])
def test_in_triton(
    x: torch.Tensor, to_subgraph: Callable[..., Any], compare: Callable[..., None], tmp_path: Path
) -> None:
    sub, order, _ = to_subgraph(_several, (x,), "fake")
    found = design(sub, H200)
    assert isinstance(found, Design)
    candidate = by_rules.write(sub, found, H200, "kernel")
    with interpreted():
        got = triton_module.load(candidate, tmp_path).run(*([x][i] for i in order))
    compare(got, _several(x), candidate.source)


def test_sizes_at_the_call_are_others_than_when_traced(
    to_subgraph: Callable[..., tuple[Subgraph, list[int], list[int]]], tmp_path: Path
) -> None:
    """Whether a window hangs over the edge is decided where the sizes are known."""
    sub, order, symbols = to_subgraph(_several, (torch.randn(2, 3, 12, 20),), "symbolic")
    assert len(symbols) >= 3
    found = design(sub, Target())
    assert isinstance(found, Design)
    module = load(render(sub, found, lower(found.sketch), "k"), tmp_path)
    module.build()
    for shape in ((2, 3, 12, 20), (1, 5, 18, 72), (4, 2, 24, 36)):
        sizes = dict(zip((2, 3, 12, 20), shape, strict=True))
        x = torch.randn(shape)
        got = module.run(*([x][i] for i in order), *(sizes[s] for s in symbols))
        for a, b in zip(got, _several(x), strict=True):
            torch.testing.assert_close(a, b)


def test_one_read_of_memory_for_each_place(designed: Callable[..., Design]) -> None:
    """No mask, no scratch and no second phase: what is outside is what the load gives there."""
    found = designed(lambda x: F.max_pool2d(x, 3, 2, 1), torch.randn(2, 3, 12, 14))
    text = str(found.sketch)
    assert text.count("Load(") == 9
    assert "'where'" not in text
    assert [t.kind for t in found.sketch.tensors].count("tmp") == 0


@pytest.mark.parametrize("target", [Target(), H200], ids=["cpu", "cuda"])
def test_what_is_computed_before_is_computed_in_place(
    target: Target, to_subgraph: Callable[..., tuple[Subgraph, list[int], list[int]]]
) -> None:
    def stem(x: torch.Tensor, mean: torch.Tensor, var: torch.Tensor) -> torch.Tensor:
        return F.max_pool2d(F.batch_norm(x, mean, var, training=False).relu(), 3, 2, 1) * 2

    sub = to_subgraph(stem, (torch.randn(2, 3, 12, 14), torch.randn(3), torch.rand(3)))[0]
    found = design(sub, target)
    assert isinstance(found, Design)
    assert [t.kind for t in found.sketch.tensors].count("tmp") == 0


def test_a_window_of_many_elements_has_no_rule(
    to_subgraph: Callable[..., tuple[Subgraph, list[int], list[int]]],
) -> None:
    sub = to_subgraph(lambda x: F.avg_pool2d(x, 9), (torch.randn(2, 3, 9, 9),))[0]
    assert isinstance(design(sub, Target()), SplitReason)


def test_on_a_gpu_neighbouring_threads_have_neighbouring_results(
    to_subgraph: Callable[..., tuple[Subgraph, list[int], list[int]]],
) -> None:
    """Planes of 56 by 56: no lane of a tile of 64 is idle, and all places are read from one tensor."""
    sub = to_subgraph(lambda x: F.max_pool2d(x, 3, 2, 1) * 2, (torch.empty(8, 64, 112, 112),))[0]
    found = design(sub, H200)
    assert isinstance(found, Design)
    assert {c.name for c in found.sketch.constexprs} == {"BN", "num_warps"}
    assert [t.kind for t in found.sketch.tensors] == ["in", "out"]
