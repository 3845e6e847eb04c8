"""Mutation put back: in place where nothing can tell, and never where something can."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import akg_dynamo

from .conftest import ReferenceSolver

ALL = {"gate": "correct"}
ROOT = Path(__file__).resolve().parents[2]
Function = Callable[..., Any]


def check(f: Function, *tensors: torch.Tensor, dynamic: bool = False, gate: str = "correct") -> str:
    """Runs eager and compiled twice on equal inputs, compares results and inputs, returns the generated source."""
    g = torch.compile(f, backend="akg", options={"gate": gate}, dynamic=dynamic)
    ours, theirs = [t.clone() for t in tensors], [t.clone() for t in tensors]
    with torch.no_grad():
        for _ in range(2):
            got, want = g(*ours), f(*theirs)
            torch.testing.assert_close(got, want)
            torch.testing.assert_close(ours, theirs)
    return akg_dynamo.explain()[-1].source


def cache_and_update() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.randn(2, 3, 16, 4), torch.randn(2, 3, 1, 4), torch.tensor([5])


def index_copy(cache: torch.Tensor, new: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    cache.index_copy_(2, at, new)
    return torch.matmul(new, cache.transpose(-1, -2)).softmax(-1)


def index_put(cache: torch.Tensor, new: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    cache[:, :, at] = new
    return torch.matmul(new, cache.transpose(-1, -2)).softmax(-1)


def slice_assignment(cache: torch.Tensor, new: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    cache[:, :, 5:6] = new
    return torch.matmul(new, cache.transpose(-1, -2)).softmax(-1)


def nested_slices(cache: torch.Tensor, new: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    cache[1, :, 2:4][:, 1:] = new[1]
    cache[0, 2].select(0, 7).copy_(new[0, 0, 0])
    return cache.sum(-1)


def two_updates(cache: torch.Tensor, new: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    cache.index_copy_(2, at, new)
    first = torch.matmul(new, cache.transpose(-1, -2))
    cache[:, :, 7:8] = first[..., :4]
    return cache.sum() + first


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("f", [index_copy, index_put, slice_assignment, nested_slices, two_updates])
def test_a_cache_is_updated_in_place(solver: ReferenceSolver, f: Function, dynamic: bool) -> None:
    source = check(f, *cache_and_update(), dynamic=dynamic)
    # Nothing the size of the cache is made, and nothing is copied back over it.
    for whole in ("torch.index_copy(", "torch.index_put(", "torch.slice_scatter(", "torch.select_scatter(", "clone"):
        assert whole not in source, source
    assert "arg0_1.copy_(" not in source


def test_a_counter(solver: ReferenceSolver) -> None:
    def f(count: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        count.add_(1)
        return torch.mm(x, x)

    source = check(f, torch.tensor(3), torch.randn(3, 3), gate="profit")
    assert "add_(1)" in source
    assert "copy_" not in source


def old_value_is_read_later(cache: torch.Tensor, new: torch.Tensor, at: torch.Tensor) -> Any:
    before = cache.transpose(-1, -2)
    kept = torch.matmul(new, before)
    cache.index_copy_(2, at, new)
    return kept, torch.matmul(new, cache.transpose(-1, -2))


def old_value_is_returned(cache: torch.Tensor, new: torch.Tensor, at: torch.Tensor) -> Any:
    before = cache.clone()
    cache.index_copy_(2, at, new)
    return before, cache.sum()


def source_overlaps(cache: torch.Tensor, new: torch.Tensor, at: torch.Tensor) -> Any:
    cache[:, :, 1:] = cache[:, :, :-1].clone()
    cache[:, :, :-2] = cache[:, :, 2:] * 2
    return cache.sum()


def functional_update_beside_the_input(cache: torch.Tensor, new: torch.Tensor, at: torch.Tensor) -> Any:
    other = cache.index_copy(2, at, new * 3)
    cache.index_copy_(2, at, new)
    return other.sum(), cache.index_copy(2, at, new * 5).mean(), cache.mean()


def an_input_that_is_not_written(cache: torch.Tensor, new: torch.Tensor, at: torch.Tensor) -> Any:
    return cache.index_copy(2, at, new), cache.slice_scatter(new, 2, 3, 4).relu()


def an_expanded_base(cache: torch.Tensor, new: torch.Tensor, at: torch.Tensor) -> Any:
    rows = torch.matmul(new, new.transpose(-1, -2)).expand(2, 3, 16, 1)
    return rows.index_copy(2, at, new[..., :1]), rows.sum()


def a_fresh_base(cache: torch.Tensor, new: torch.Tensor, at: torch.Tensor) -> Any:
    scores = torch.matmul(new, cache.transpose(-1, -2))
    view = scores.view(-1)
    scores[:, :, :, 2:4] = 0
    masked = scores.masked_fill(scores > 1, -1)
    return view.relu(), masked


def both_values_in_one_kernel(cache: torch.Tensor, new: torch.Tensor, at: torch.Tensor) -> Any:
    cache.index_copy_(2, at, new)
    first = cache.mean()
    cache[:, :, 7:8] = new * 2
    return cache.sum() + first


def a_cache_returned(cache: torch.Tensor, new: torch.Tensor, at: torch.Tensor) -> Any:
    cache.index_copy_(2, at, new)
    return cache, cache[:, :, 2:5]


def a_cache_returned_as_it_lies(cache: torch.Tensor, new: torch.Tensor, at: torch.Tensor) -> Any:
    """AOTAutograd returns the trailing copy itself."""
    cache[:, :, 5:6] = new
    return cache.contiguous(), cache.sigmoid()


def overwritten_at_the_end(cache: torch.Tensor, new: torch.Tensor, at: torch.Tensor) -> Any:
    cache.index_copy_(2, at, new)
    seen = torch.matmul(new, cache.transpose(-1, -2))
    cache.mul_(2)
    cache.index_copy_(2, at + 1, new)
    return seen


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(
    "f",
    [
        old_value_is_read_later,
        old_value_is_returned,
        source_overlaps,
        functional_update_beside_the_input,
        an_input_that_is_not_written,
        an_expanded_base,
        a_fresh_base,
        both_values_in_one_kernel,
        a_cache_returned,
        a_cache_returned_as_it_lies,
        overwritten_at_the_end,
    ],
)
def test_whoever_reads_another_value_gets_it(solver: ReferenceSolver, f: Function, dynamic: bool) -> None:
    check(f, *cache_and_update(), dynamic=dynamic)


def test_what_backward_needs_is_not_overwritten(solver: ReferenceSolver) -> None:
    def f(cache: torch.Tensor, w: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        y = torch.exp((cache * 1) @ w)
        z = y * 2
        z = z.index_copy(0, at, torch.ones_like(z[:1]))
        cache.index_copy_(0, at, y[:1].detach()[:, :4])
        return (y * z).sum()

    ours, theirs = torch.randn(6, 4), None
    theirs = ours.clone()
    w = torch.randn(4, 4, requires_grad=True)
    at = torch.tensor([2])
    (got,) = torch.autograd.grad(torch.compile(f, backend="akg", options=ALL)(ours, w, at), w)
    (want,) = torch.autograd.grad(f(theirs, w, at), w)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(ours, theirs)


def test_a_decode_step_does_not_copy_the_cache(solver: ReferenceSolver) -> None:
    """The whole step, beside eager in one interleaved run; copying the cache takes five times eager's time."""
    spec = importlib.util.spec_from_file_location("kv_decode", ROOT / "benchmarks" / "kv_decode.py")
    assert spec is not None
    assert spec.loader is not None
    kv_decode = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kv_decode)
    backend = {"backend": "akg", "options": {"gate": "correct"}}
    for _ in range(5):  # on a busy machine one of the two may be the one that waits
        _, ratios = kv_decode.ratios_to_eager(2, 4096, {"akg": backend}, rounds=40)
        assert solver.calls > 0
        if ratios["akg"] < 1.5:
            break
    assert ratios["akg"] < 1.5  # leaves room; benchmarks/kv_decode.py is what measures
