"""The way to the machine: designed, lowered to C++, built, run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from akg_dynamo.agents.coder import by_rules
from akg_dynamo.agents.coder.module import load, render
from akg_dynamo.agents.designer.rules import design
from akg_dynamo.agents.lowering.cpp import lower
from akg_dynamo.core.types import Design, Subgraph, Target


def test_rows(lowered: Callable[..., None]) -> None:
    """One kernel of every shape of loop over rows, with tails."""
    x, w = torch.randn(37, 1037), torch.randn(1037)
    lowered(
        lambda x, w: (torch.softmax(x, -1), F.layer_norm(x, (1037,), w), x.argmax(-1), (x * w).sum(-1), x.amin(-1)),
        x, w,
    )  # fmt: skip


def test_columns_and_chunks(lowered: Callable[..., None]) -> None:
    x = torch.randn(1301, 103)
    lowered(lambda x: (x.sum(0), x.mean(), torch.softmax(x, 0), x.t() * 2, x.argmin(0)), x)


def test_transpositions(lowered: Callable[..., None]) -> None:
    lowered(lambda x: (x.permute(0, 2, 1) * 2 + 1, torch.softmax(x.permute(0, 2, 1), -1)), torch.randn(3, 77, 301))


def test_moves(lowered: Callable[..., None]) -> None:
    x, i = torch.randn(13, 40).bfloat16(), torch.randint(0, 13, (21,))
    lowered(
        lambda x, i: (torch.cat([x, x * 2], 1), F.pad(x, (3, 2)), x[i - 13], x.flip(0), x.roll(3, 1), x[:, ::3] + 1),
        x, i,
    )  # fmt: skip


def test_a_sum_traced_at_few_terms_is_as_exact_over_many(
    to_subgraph: Callable[..., tuple[Subgraph, list[int], list[int]]], tmp_path: Path
) -> None:
    """Four by four terms when it was traced, 129 by 127 when it is called: no accumulator takes them all."""

    def along_rows(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return (x.transpose(0, 1) * w).sum((0, 1))

    sub, order, symbols = to_subgraph(along_rows, (torch.rand(4, 5, 32), torch.rand(32)), "symbolic")
    assert len(symbols) >= 2
    found = design(sub, Target())
    assert isinstance(found, Design)
    module = load(render(sub, found, lower(found.sketch), "k"), tmp_path)
    module.build()
    x, w = torch.rand(129, 127, 32) + 1, torch.rand(32) + 1
    sizes = {4: 129, 5: 127, 32: 32}
    (got,) = module.run(*((x, w)[i] for i in order), *(sizes[s] for s in symbols))
    exact = along_rows(x.double(), w.double())
    assert ((got - exact).abs() / exact).max() < 2 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_eagers_rounding_points_give_its_very_bits(
    dtype: torch.dtype, to_subgraph: Callable[..., tuple[Subgraph, list[int], list[int]]], tmp_path: Path
) -> None:
    """A chain of operators that each round once: in one kernel as in six."""

    def chain(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        z = torch.full((), 0.1, dtype=dtype) * x * y + y
        return (z - x) / (x.abs() + 1.3), torch.relu(z).to(torch.float32) * 3.7

    args = (torch.randn(70, 133).to(dtype), torch.randn(133).to(dtype))
    sub, order, _ = to_subgraph(chain, args)
    found = {}
    for numerics in ("eager", "bounded"):
        designed = design(sub, Target(), numerics)
        assert isinstance(designed, Design)
        made = by_rules.write(sub, designed, Target(), "k", numerics=numerics)
        found[numerics] = by_rules.built(made, Target(), tmp_path).run(*(args[i] for i in order))
    want = chain(*args)
    assert all(torch.equal(a, b) for a, b in zip(found["eager"], want, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(found["bounded"], want, strict=True))
