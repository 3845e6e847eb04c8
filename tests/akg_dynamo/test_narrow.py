"""What is the same along a dim: computed once, and nothing that is read or returned is laid out otherwise."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from akg_dynamo import narrow as module
from akg_dynamo.narrow import narrow

Function = Callable[..., "Tensor | tuple[Tensor, ...]"]
SCORES, BIAS, ALLOWED = torch.randn(4, 3, 8, 8), torch.randn(8, 8, 3), torch.rand(8) > 0.3


def narrowed(f: Function, *inputs: Tensor, mode: str = "fake") -> fx.GraphModule:
    """The graph of `f` rewritten, its values and layouts compared."""
    gm = make_fx(f, tracing_mode=mode)(*inputs)
    narrow(gm)
    gm.graph.lint()
    gm.recompile()
    got, want = gm(*inputs), f(*inputs)
    for a, b in zip(*((x if isinstance(x, tuple) else (x,)) for x in (got, want)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
        assert a.stride() == b.stride()
    return gm


def sizes(gm: fx.GraphModule, name: str) -> list[int]:
    """Of the results of the operator of that name."""
    return [n.meta["val"].numel() for n in gm.graph.nodes if getattr(n.target, "__name__", "").startswith(f"{name}.")]


@pytest.fixture(autouse=True)
def small_ones_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LEAST_BYTES", 0)


def two_layers(scores: Tensor, bias: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    wide = allowed.view(1, 1, 8, 1).expand(4, 1, 8, 8)
    mask = torch.where(wide, bias.permute(2, 0, 1).unsqueeze(0), float("-inf"))
    return torch.softmax(scores + mask, -1), torch.softmax(scores * 2 + mask, -1)


def test_a_mask_is_made_once() -> None:
    gm = narrowed(two_layers, SCORES, BIAS, ALLOWED)
    assert sizes(gm, "where") == [3 * 8 * 8]
    assert sizes(gm, "add") == [SCORES.numel()] * 2


def test_what_is_computed_of_it_is_narrow_too() -> None:
    def f(scores: Tensor, bias: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
        wide = allowed.view(1, 1, 8, 1).expand(4, 3, 8, 8)
        mask = wide.logical_not()
        return mask.float().mul(-5.0) + scores, scores.masked_fill(mask, 0.0)

    assert sizes(narrowed(f, SCORES, BIAS, ALLOWED), "logical_not") == [8]


def returned(scores: Tensor, bias: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    mask = allowed.view(1, 1, 8, 1).expand(4, 3, 8, 8).logical_not()
    return mask, scores.masked_fill(mask, 0.0)


def read_by_one(scores: Tensor, bias: Tensor, allowed: Tensor) -> Tensor:
    return scores.masked_fill(allowed.view(1, 1, 8, 1).expand(4, 3, 8, 8).logical_not(), 0.0)


def read_by_a_library(scores: Tensor, bias: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    wide = bias[0, :, 0].view(1, 1, 8).expand(12, 8, 8).exp()
    return torch.bmm(scores.view(12, 8, 8), wide), wide + 1


def another_layout_of_what_reads_it(scores: Tensor, bias: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    wide = allowed.view(1, 1, 8, 1).expand(4, 3, 8, 8).exp()
    turned = scores.permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format).permute(0, 3, 1, 2)
    return wide + turned, wide - 1  # the sum is laid out as `wide` is: one with strides of 0 leaves it to the other


def nothing_is_the_same(scores: Tensor, bias: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    a = scores.exp()
    return a + 1, a - 1


@pytest.mark.parametrize(
    "f", [returned, read_by_one, read_by_a_library, another_layout_of_what_reads_it, nothing_is_the_same]
)
def test_what_is_left_as_it_is(f: Function) -> None:
    before = make_fx(f, tracing_mode="fake")(SCORES, BIAS, ALLOWED)
    assert [n.target for n in narrowed(f, SCORES, BIAS, ALLOWED).graph.nodes] == [n.target for n in before.graph.nodes]


def test_symbolic_sizes_are_left_and_no_guard_is_added() -> None:
    gm = make_fx(two_layers, tracing_mode="symbolic")(SCORES, BIAS, ALLOWED)
    (env,) = {s.node.shape_env for n in gm.graph.nodes if n.op == "placeholder" for s in n.meta["val"].shape
              if isinstance(s, torch.SymInt)}  # fmt: skip
    before = len(env.guards)
    narrow(gm)
    assert len(env.guards) == before
