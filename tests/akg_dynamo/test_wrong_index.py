"""An index out of range: eager's own error, in its words, and the kernel stays. They wrap where torch wraps them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import akg_dynamo

Function = Callable[..., torch.Tensor]
ROWS, COLUMNS, N = 30, 7, 21


def embedding(table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    return F.embedding(index, table) * 2 + 1


def index_select(table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    return torch.index_select(table, 0, index).exp() + 1


def gather(table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    return torch.gather(table, 0, index.unsqueeze(1).expand(-1, COLUMNS)).exp() * 2


def advanced(table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    return table[index].exp() * 2


def advanced_pair(table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    return table[index, index % COLUMNS].exp() * 2


def inside_a_slice(table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """What is out of range of the slice is not out of range of the tensor."""
    return F.embedding(index, table[: ROWS // 2]) * 2 + 1


def cross_entropy(table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(table.t()[:COLUMNS], index[:COLUMNS])


def nll_without_reduction(table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    return F.nll_loss(F.log_softmax(table.t()[:COLUMNS], 1), index[:COLUMNS], reduction="none") * 2


REFUSE_NEGATIVE = (embedding, index_select, gather, inside_a_slice, cross_entropy, nll_without_reduction)
WRAP = (advanced, advanced_pair)


@pytest.fixture
def compile_(tmp_path: Path) -> Iterator[Callable[..., Function]]:
    torch._dynamo.reset()
    options = {"gate": "correct", "cache_dir": str(tmp_path)}
    yield lambda f, **how: torch.compile(f, backend="akg", options=options, **how)
    torch._dynamo.reset()


def raised_by(f: Function, *args: torch.Tensor) -> tuple[type[Exception], str]:
    with pytest.raises((IndexError, RuntimeError)) as raised:
        f(*args)
    return raised.type, str(raised.value)


@pytest.mark.parametrize("f", [*REFUSE_NEGATIVE, *WRAP], ids=lambda f: f.__name__)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_eager_s_error_and_the_kernel_stays(compile_: Callable[..., Function], f: Function, dynamic: bool) -> None:
    table = torch.randn(ROWS, COLUMNS)
    # the modulo keeps the right ones inside a slice, too; the last lanes of a vector are where a check may be missing
    right = torch.arange(N) % (ROWS // 2)
    g = compile_(f, dynamic=dynamic)
    with torch.no_grad():
        torch.testing.assert_close(g(table, right), f(table, right))
        for place in (0, 3, min(N, COLUMNS) - 1):
            for value in (ROWS, 10**12, -ROWS - 1) + ((-1,) if f in REFUSE_NEGATIVE else ()):
                wrong = right.clone()
                wrong[place] = value
                assert raised_by(g, table, wrong) == raised_by(f, table, wrong)
        torch.testing.assert_close(g(table, right), f(table, right))
    (report,) = akg_dynamo.explain()
    assert report.kernels
    assert not report.fallbacks
    assert not [n for n in report.left if "embedding" in n.target or "gather" in n.target or "index" in n.target]


@pytest.mark.parametrize("f", WRAP, ids=lambda f: f.__name__)
def test_negative_indices_wrap_where_torch_wraps_them(compile_: Callable[..., Function], f: Function) -> None:
    table, index = torch.randn(ROWS, COLUMNS), torch.arange(N) - N // 2
    torch.testing.assert_close(compile_(f)(table, index), f(table, index))


def test_targets_to_ignore_are_no_indices(compile_: Callable[..., Function]) -> None:
    x, target = torch.randn(N, ROWS), torch.arange(N) % ROWS
    target[::3] = -100
    torch.testing.assert_close(compile_(F.cross_entropy)(x, target), F.cross_entropy(x, target))


def test_threads_report_too(compile_: Callable[..., Function]) -> None:
    table, right = torch.randn(4000, 512), torch.arange(4000)
    wrong = right.clone()
    wrong[-1] = 4000
    g = compile_(embedding)
    with torch.no_grad():
        torch.testing.assert_close(g(table, right), embedding(table, right))
        assert raised_by(g, table, wrong) == raised_by(embedding, table, wrong)


def test_what_is_masked_beside_a_gather_is_not_reported(compile_: Callable[..., Function]) -> None:
    """Lanes outside the operand of a concatenation or of a pad hold no index of the user's."""

    def f(table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        rows = torch.cat([F.embedding(index, table) * 2, table[:3] + 1])
        return F.pad(rows.exp(), (1, 2, 3, 1))

    table, index = torch.randn(ROWS, COLUMNS), torch.arange(N)
    g = compile_(f)
    torch.testing.assert_close(g(table, index), f(table, index))
    assert not akg_dynamo.explain()[0].fallbacks
