"""Masks that say the same whatever the input: which are replaced, which are left, and that values stay as they were."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor, fx, nn

import akg_dynamo
from akg_dynamo import attention_layout, attention_masks

from .conftest import ReferenceSolver

INF = float("inf")
Function = Callable[[Tensor, Tensor, Tensor], Tensor]


@pytest.fixture
def rewritten(solver: ReferenceSolver, monkeypatch: pytest.MonkeyPatch) -> list[fx.GraphModule]:
    """The Dynamo graphs that were compiled, after the rewrite."""
    graphs: list[fx.GraphModule] = []
    before = attention_masks.simplify_attention_masks

    def spy(gm: fx.GraphModule) -> tuple[str, ...]:
        said = before(gm)
        gm.graph.lint()
        graphs.append(gm)
        return said

    monkeypatch.setattr("akg_dynamo.capture.simplify_attention_masks", spy)
    return graphs


def attentions(gm: fx.GraphModule) -> list[tuple[bool, bool]]:
    """Of each attention in a graph: whether it has a mask, and whether it is said to be causal."""
    found = []
    for node in gm.graph.nodes:
        if node.target is F.scaled_dot_product_attention:
            mask = node.args[3] if len(node.args) > 3 else node.kwargs.get("attn_mask")
            causal = node.args[5] if len(node.args) > 5 else node.kwargs.get("is_causal", False)
            found.append((mask is not None, causal))
    return found


def inputs(batch: int = 2, heads: int = 2, length: int = 9, keys: int | None = None, width: int = 8) -> list[Tensor]:
    torch.manual_seed(0)
    sizes = (length, keys or length, keys or length)
    return [torch.randn(batch, heads, n, width, requires_grad=True) for n in sizes]


def compared(f: Callable[..., Tensor], *arguments: Tensor, **options: Any) -> None:
    """The compiled function's values and gradients are eager's, but for rounding."""
    compiled = torch.compile(f, backend="akg", options={"gate": "correct"}, fullgraph=True, **options)
    results = []
    for g in (f, compiled):
        copies = [x.detach().clone().requires_grad_(x.requires_grad) for x in arguments]
        output = g(*copies)
        output.square().sum().backward()
        results.append([output.detach(), *(x.grad for x in copies)])
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def ramp(x: Tensor, dim: int = -2) -> Tensor:
    return torch.arange(x.shape[dim], device=x.device)


def all_true(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """As ViT's."""
    mask = (ramp(q)[None, None, :, None] >= 0).expand(q.shape[0], -1, q.shape[-2], k.shape[-2])
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def zeros(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, torch.zeros(q.shape[-2], k.shape[-2]))


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    mask = ramp(k) <= ramp(q)[:, None]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask[None, None], scale=0.3)


def causal_by_tril(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril()
    return F.scaled_dot_product_attention(q, k, v, mask, 0.0, False)


def causal_by_addition(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    mask = torch.triu(torch.full((q.shape[-2], k.shape[-2]), -INF), diagonal=1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def wide_window(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """A window that nothing falls out of at these sizes."""
    mask = (ramp(k) <= ramp(q)[:, None]) & (ramp(k) > ramp(q)[:, None] - 9)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def grouped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    mask = ramp(k) <= ramp(q)[:, None]
    return F.scaled_dot_product_attention(q, k[:, :1], v[:, :1], attn_mask=mask, enable_gqa=True)


def under_autocast(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        return causal(q, k, v)


NONE, CAUSAL = (False, False), (False, True)
REPLACED: list[tuple[Function, tuple[bool, bool]]] = [
    (all_true, NONE),
    (zeros, NONE),
    (causal, CAUSAL),
    (causal_by_tril, CAUSAL),
    (causal_by_addition, CAUSAL),
    (wide_window, CAUSAL),
    (grouped, CAUSAL),
    (under_autocast, CAUSAL),
]


@pytest.mark.parametrize(("f", "left"), REPLACED)
def test_replaced(f: Function, left: tuple[bool, bool], rewritten: list[fx.GraphModule]) -> None:
    compared(f, *inputs())
    (gm,) = rewritten
    assert attentions(gm) == [left]
    names = [str(n.target) for n in gm.graph.nodes if n.op.startswith("call")]
    assert not any("arange" in name or "ones" in name or "expand" in name for name in names), names


def window(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    mask = (ramp(k) <= ramp(q)[:, None]) & (ramp(k) > ramp(q)[:, None] - 4)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def of_an_input(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    mask = (ramp(k) <= ramp(q)[:, None]) & (k[..., None, :, 0] < 1e9)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def random_mask(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    mask = torch.rand(q.shape[-2], k.shape[-2]) < 2
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def written_by_index(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool)
    mask[:, 3] = False
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def written_in_place(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool)
    mask.tril_(2)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def written_through_a_view(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    mask = torch.zeros(q.shape[-2], k.shape[-2])
    mask[2:].t().add_(ramp(q)[2:])
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def written_by_an_operator(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    mask = torch.zeros(q.shape[-2], k.shape[-2])
    mask += ramp(q)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def written_with_out(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    mask = torch.zeros(q.shape[-2], k.shape[-2])
    torch.add(mask, 0.5 * ramp(q), out=mask)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def positions_written(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    positions = ramp(q)
    positions[2:5].zero_()
    return F.scaled_dot_product_attention(q, k, v, attn_mask=positions <= positions[:, None])


def strictly_causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    mask = ramp(k) <= ramp(q)[:, None] + 1
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def anticausal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    mask = ramp(k) >= ramp(q)[:, None]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def large_but_finite(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    mask = torch.triu(torch.full((q.shape[-2], k.shape[-2]), -1e9), diagonal=1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def nothing_allowed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    mask = torch.zeros(q.shape[-2], k.shape[-2], dtype=torch.bool)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


LEFT = [
    window, of_an_input, random_mask, written_by_index, written_in_place, written_through_a_view,
    written_by_an_operator, written_with_out, positions_written, strictly_causal, anticausal, large_but_finite,
    nothing_allowed,
]  # fmt: skip


@pytest.mark.parametrize("f", LEFT)
def test_left_alone(f: Function, rewritten: list[fx.GraphModule]) -> None:
    compared(f, *inputs())
    (gm,) = rewritten
    assert attentions(gm) == [(True, False)]
    assert not any(report.rewrites for report in akg_dynamo.explain())


def test_rows_and_columns_that_differ(rewritten: list[fx.GraphModule]) -> None:
    """is_causal aligns the first ones of both; what it means for other sizes is left to the mask."""
    compared(causal, *inputs(length=5, keys=9))
    compared(all_true, *inputs(length=5, keys=9))
    assert [attentions(gm) for gm in rewritten] == [[(True, False)], [NONE]]


def test_dropout_keeps_its_mask(rewritten: list[fx.GraphModule]) -> None:
    """A kernel without a mask may draw other numbers."""

    def f(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mask = ramp(k) <= ramp(q)[:, None]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=0.5)

    drawn = []
    for g in (f, torch.compile(f, backend="akg", options={"gate": "correct"})):
        torch.manual_seed(3)
        drawn.append(g(*[x.detach() for x in inputs()]))
    torch.testing.assert_close(*drawn, rtol=1e-5, atol=1e-5)
    assert attentions(rewritten[0]) == [(True, False)]


def test_a_mask_that_is_returned_is_still_made(rewritten: list[fx.GraphModule]) -> None:
    def f(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        mask = ramp(k) <= ramp(q)[:, None]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask), mask

    q, k, v = inputs()
    compiled = torch.compile(f, backend="akg", options={"gate": "correct"})
    for actual, expected in zip(compiled(q, k, v), f(q, k, v), strict=True):
        torch.testing.assert_close(actual, expected)
    assert attentions(rewritten[0]) == [CAUSAL]


def test_every_size_of_a_dynamic_graph(rewritten: list[fx.GraphModule]) -> None:
    """Proved once; a window wider than the traced length is no proof."""
    for f in (causal, all_true, wide_window):
        compiled = torch.compile(f, backend="akg", dynamic=True, options={"gate": "correct"})
        for batch, length in itertools.product((2, 3), (5, 9, 14)):
            arguments = inputs(batch=batch, heads=4, length=length)  # traced with sizes that all differ
            torch.testing.assert_close(compiled(*arguments), f(*arguments), rtol=1e-5, atol=1e-5)
    assert [attentions(gm) for gm in rewritten] == [[CAUSAL], [NONE], [(True, False)]], "or a size compiled again"


def test_a_scale_that_is_a_size(rewritten: list[fx.GraphModule]) -> None:
    def f(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mask = ramp(k) <= ramp(q)[:, None]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1 / q.shape[2])

    compiled = torch.compile(f, backend="akg", dynamic=True, options={"gate": "correct"})
    for length in (5, 9):
        arguments = inputs(heads=4, length=length)
        torch.testing.assert_close(compiled(*arguments), f(*arguments), rtol=1e-5, atol=1e-5)
    assert {True for gm in rewritten if attentions(gm) == [CAUSAL]}


def test_equal_by_chance_is_not_equal(rewritten: list[fx.GraphModule]) -> None:
    """A graph for as many rows as columns is causal; one that is for any number of both is left its mask."""
    compiled = torch.compile(causal, backend="akg", dynamic=True, options={"gate": "correct"})
    for length, keys in ((6, 6), (4, 7), (8, 8), (5, 3)):
        arguments = inputs(length=length, keys=keys)
        torch.testing.assert_close(compiled(*arguments), causal(*arguments), rtol=1e-5, atol=1e-5)
    assert [attentions(gm) for gm in rewritten] == [[CAUSAL], [(True, False)]]


def test_explain_says_so(rewritten: list[fx.GraphModule]) -> None:
    """Once for a model, with its forward pass."""

    def f(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return causal(q, k, v) + causal(v, k, q) + all_true(q, k, v)

    compared(f, *inputs())
    assert [report.kind for report in akg_dynamo.explain()] == ["forward", "backward"]
    console = Console(width=120, record=True, file=io.StringIO())
    for report in akg_dynamo.explain():
        console.print(report)
    text = console.export_text()
    assert (
        text.count("rewritten: attention masks (2) that, whatever the input, are causal: is_causal=True instead") == 1
    )
    assert text.count("rewritten: attention masks (1) that, whatever the input, hide nothing: there is none") == 1


class Checkpointed(nn.Module):
    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mask = ramp(k) <= ramp(q)[:, None]
        once = torch.utils.checkpoint.checkpoint(
            lambda q: F.scaled_dot_product_attention(q, k, v, attn_mask=mask), q, use_reentrant=False
        )
        return F.scaled_dot_product_attention(once, k, v, attn_mask=mask)


def test_a_mask_that_a_checkpoint_reads(rewritten: list[fx.GraphModule]) -> None:
    """What the part under the checkpoint does with it is not looked into."""
    compared(Checkpointed(), *inputs())
    assert attentions(rewritten[0]) == [(True, False)]


@pytest.fixture
def other_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracing as on a device whose attention without a mask lays (b, h, s, e) out as (b, s, h, e)."""
    call = attention_layout._call

    def as_elsewhere(node: fx.Node, args: Any, kwargs: Any, *values: Any) -> Any:
        result = call(node, args, kwargs, *values)
        if node.target is F.scaled_dot_product_attention and kwargs["attn_mask"] is None:
            return result.transpose(1, 2).contiguous().transpose(1, 2)
        return result

    monkeypatch.setattr(attention_layout, "_call", as_elsewhere)


def heads_joined(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """As in most models."""
    return causal(q, k, v).transpose(1, 2).reshape(q.shape[0], q.shape[2], -1) @ q[0, 0].new_ones(16, 3)


def made_contiguous(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return all_true(q, k, v).transpose(1, 2).contiguous().view(q.shape[0], q.shape[2], -1) * 2


def heads_viewed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return causal(q, k, v).view(-1, q.shape[2], q.shape[3]).contiguous()


def joined_and_written(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    joined = causal(q, k, v).transpose(1, 2).reshape(q.shape[0], q.shape[2], -1)
    return joined.add_(1) @ q[0, 0].new_ones(16, 3)


def returned_twice(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    joined = causal(q, k, v).transpose(1, 2)
    return joined.contiguous(), joined.reshape(q.shape[0], q.shape[2], -1)


def read_by_arithmetic(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """A sum is laid out as its operands are."""
    return causal(q, k, v) + 1


@pytest.mark.parametrize(
    ("f", "replaced"),
    [
        (heads_joined, True),
        (made_contiguous, True),
        (causal, False),
        (heads_viewed, False),
        (joined_and_written, False),
        (returned_twice, False),
        (read_by_arithmetic, False),
    ],
)
def test_another_layout(
    f: Callable[..., Any], replaced: bool, other_layout: None, rewritten: list[fx.GraphModule]
) -> None:
    """Whoever reads the result must be able to, and what is returned is laid out as before."""
    arguments = [x.detach() for x in inputs()]
    torch.testing.assert_close(
        torch.compile(f, backend="akg", options={"gate": "correct"})(*arguments), f(*arguments), rtol=1e-5, atol=1e-5
    )
    ((left,),) = map(attentions, rewritten)
    assert left[0] is not replaced


def test_eager_numerics_keep_the_mask_that_the_program_has(rewritten: list[fx.GraphModule]) -> None:
    """Another kernel rounds otherwise."""

    def f(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        everything = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=everything).transpose(1, 2).reshape(2, 9, -1) * 2

    for numerics in ("eager", "bounded"):
        torch._dynamo.reset()
        torch.compile(f, backend="akg", options={"gate": "correct", "numerics": numerics})(*inputs())
    (gm,) = rewritten
    assert attentions(gm) == [(False, False)]
    assert [bool(r.rewrites) for r in akg_dynamo.explain() if r.kind == "forward"][-1]
