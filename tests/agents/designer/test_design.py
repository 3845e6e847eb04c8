"""Every family of operators: designed, interpreted, compared with torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from akg_dynamo.agents.designer.rules import design, supported
from akg_dynamo.agents.sketch import parse, to_text
from akg_dynamo.agents.sketch.ast import For
from akg_dynamo.core.types import Design, OpNode, Ref, SplitReason, Subgraph, Target, TensorSpec

Case = tuple[Callable[..., Any], tuple[torch.Tensor, ...]]


def _r(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def _i(high: int, *shape: int) -> torch.Tensor:
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(high))


def _grads(f: Callable[..., torch.Tensor]) -> Callable[..., Any]:
    """The gradients of f with respect to all its floating-point arguments."""

    def backward(*args: torch.Tensor) -> tuple[torch.Tensor, ...]:
        leaves = [a.detach().requires_grad_(a.is_floating_point()) for a in args]
        y = f(*leaves)
        return torch.autograd.grad((y * y).sum(), [a for a in leaves if a.requires_grad])

    return backward


FORWARD: dict[str, Case] = {
    "pointwise with broadcasting": (lambda x, y: (x + y) * 2 - torch.exp(x), (_r(5, 7), _r(7))),
    "broadcast in the middle": (lambda x, y: x * y + 1, (_r(4, 1, 6), _r(3, 1))),
    "permuted operand": (lambda x, y: x + y.t(), (_r(6, 9), _r(9, 6))),
    "a value and its transpose": (lambda x: x + x.t() * 2, (_r(6, 6),)),
    "permuted output": (lambda x: (x * 2).permute(2, 0, 1).contiguous(), (_r(3, 4, 5),)),
    "several outputs": (lambda x, y: (x + y, x - y, (x * y).sum(-1)), (_r(5, 7), _r(5, 7))),
    "0-dim operands": (lambda x, y: x * y + y, (_r(4, 3), _r())),
    "0-dim result": (lambda x, y: x * y, (_r(), _r())),
    "softmax": (lambda x: torch.softmax(x * 2, -1), (_r(6, 1100),)),
    "softmax over the outer dim": (lambda x: torch.softmax(x, 0), (_r(6, 40),)),
    "softmax over a middle dim": (lambda x: torch.softmax(x, 1), (_r(3, 5, 7),)),
    "softmax of rows made by a view": (lambda x: torch.softmax((x + 1).view(-1, 8), -1).view(2, 3, 8), (_r(2, 3, 8),)),
    "log_softmax and a gather": (lambda x, i: torch.log_softmax(x, -1).gather(1, i), (_r(5, 9), _i(9, 5, 1))),
    "cross entropy": (F.cross_entropy, (_r(6, 11), _i(11, 6))),
    "cross entropy that ignores": (lambda x, t: F.cross_entropy(x, t - 1, ignore_index=-1), (_r(6, 11), _i(12, 6))),
    "logsumexp": (lambda x: torch.logsumexp(x, 1), (_r(5, 30),)),
    "full sum": (lambda x: (x * x).sum(), (_r(30, 41),)),
    "full sum in chunks": (lambda x: (x * x).sum(), (_r(300, 411),)),
    "few long rows": (lambda x: torch.softmax(x, -1), (_r(2, 50_001),)),
    "standardised by the whole": (lambda x: (x - x.mean()) / x.std(), (_r(300, 400),)),
    "column sum": (lambda x: x.sum(0), (_r(70, 41),)),
    "column sum in chunks": (lambda x: x.sum(0) * 2, (_r(1301, 100),)),
    "sum over outer and inner": (lambda x: (x * 2).sum((0, 2)), (_r(6, 4, 5),)),
    "rows and columns of one read": (lambda x: (x.sum(0), x.sum(1), x.amax(1)), (_r(9, 14),)),
    "var_mean": (lambda x: torch.var_mean(x, 1), (_r(6, 40),)),
    "std over everything": (lambda x: x.std(), (_r(6, 40),)),
    "layer_norm": (lambda x, w, b: F.layer_norm(x, (40,), w, b), (_r(2, 3, 40), _r(40), _r(40))),
    "rms_norm": (lambda x, w: F.rms_norm(x, (40,), w), (_r(2, 3, 40), _r(40))),
    "group_norm": (lambda x, w, b: F.group_norm(x, 4, w, b), (_r(2, 8, 3, 5), _r(8), _r(8))),
    "group_norm then relu": (lambda x: F.group_norm(x, 2).relu() + x, (_r(2, 6, 7),)),
    "instance_norm": (F.instance_norm, (_r(3, 4, 5, 6),)),
    "batch_norm": (lambda x: F.batch_norm(x, None, None, training=True), (_r(4, 3, 5, 6),)),
    "batch_norm, channels last": (
        lambda x: F.batch_norm(x.to(memory_format=torch.channels_last), None, None, training=True),
        (_r(4, 20, 5, 6),),
    ),
    "batch_norm, evaluation": (
        lambda x, m, v: F.batch_norm(x, m, v.abs() + 0.1, training=False),
        (_r(4, 3, 5, 6), _r(3), _r(3)),
    ),
    "a loss over softmaxes": (
        lambda x, y: F.kl_div(torch.log_softmax(x, 1), torch.softmax(y, 1), reduction="batchmean"),
        (_r(20, 33), _r(20, 33)),
    ),
    "a loss over softmaxes of a middle dim": (
        lambda x, y: (torch.softmax(x, 1) * y - torch.softmax(y, 1)).abs().sum((0, 1)),
        (_r(20, 9, 3), _r(20, 9, 3)),
    ),
    "a sum of what rows and the whole were scaled by": (
        lambda x: (x / x.norm(dim=1, keepdim=True) / x.abs().max()).exp().sum(),
        (_r(40, 21),),
    ),
    "cosine similarity": (lambda x, y: (x * y).sum(1) / (x.norm(dim=1) * y.norm(dim=1)), (_r(5, 30), _r(5, 30))),
    "binary cross entropy": (lambda x, y: F.binary_cross_entropy_with_logits(x, y.sigmoid()), (_r(5, 30), _r(5, 30))),
    "smooth l1": (F.smooth_l1_loss, (_r(5, 30), _r(5, 30))),
    "argmax of rows": (lambda x: (x * 2).argmax(-1), (_r(5, 9),)),
    "argmax of everything": (lambda x: x.argmax(), (_r(5, 9),)),
    "argmin of columns": (lambda x: x.argmin(0), (_r(50, 40),)),
    "max with indices": (lambda x: torch.max(x * 1, 1), (_r(5, 9),)),
    "any and all": (lambda x: ((x > 2).any(1), (x > -2).all(0), (x > 3).any()), (_r(5, 40),)),
    "prod": (lambda x: x.prod(1), (_r(5, 9),)),
    "cat": (lambda x, y: torch.cat([x, y * 2, x + 1], 1), (_r(3, 4), _r(3, 6))),
    "cat of outer dims": (lambda x, y: torch.cat([x + 1, y], 0) * 2, (_r(3, 4), _r(2, 4))),
    "stack": (lambda x, y: torch.stack([x, y], -1) * 2, (_r(3, 4), _r(3, 4))),
    "pad": (lambda x: F.pad(x, (1, 2, 3, 0), value=1.5) * 2, (_r(3, 4),)),
    "crop by padding": (lambda x: F.pad(x * 2, (-1, 1, 0, -1)), (_r(3, 4),)),
    "slices": (lambda x: x[:, 1:7:2] + x[:, 2:8:2], (_r(5, 9),)),
    "halves, rotated": (
        lambda x, c: x * c + torch.cat([-x[..., 4:], x[..., :4]], -1),
        (_r(2, 3, 8), _r(3, 8)),
    ),
    "flip": (lambda x: x.flip(0) + x.flip(1), (_r(5, 7),)),
    "roll": (lambda x: (x + 1).roll((2, -1), (1, 0)), (_r(5, 7),)),
    "repeat": (lambda x: x.repeat(2, 3) * 2, (_r(3, 4),)),
    "tril": (lambda x: torch.tril(x, 1) + torch.triu(x), (_r(5, 7),)),
    "embedding": (lambda w, i: F.embedding(i, w) * 2, (_r(10, 6), _i(10, 3, 4))),
    "index_select": (lambda x, i: torch.index_select(x, 1, i) + 1, (_r(4, 6), _i(6, 9))),
    "advanced index": (lambda x, i, j: x[i - 2, :, j] * 2, (_r(4, 6, 5), _i(4, 7), _i(5, 7))),
    "a view that divides nothing": (lambda x: (x + 1).view(6, 4) * 2 + (x * 2).view(6, 4), (_r(8, 3),)),
    "heads to rows": (lambda x: (x * 2).view(2, 4, 3, 5).transpose(1, 2).reshape(2, 3, 20) + 1, (_r(2, 4, 15),)),
    "where and comparisons": (lambda x, y: torch.where(x > y, x, y * 2).clamp(-1, 1), (_r(5, 7), _r(5, 7))),
    "integers": (lambda x, y: (x // (y + 1), x % (y + 1), (x << 2) ^ y, x.float() / 3), (_i(100, 5, 7), _i(9, 7))),
    "arange and full": (lambda x: x + torch.arange(7) * 2 + torch.full((5, 7), 0.5), (_r(5, 7),)),
    "gelu, silu, mish": (lambda x: F.gelu(x) + F.silu(x) + F.mish(x) + F.gelu(x, approximate="tanh"), (_r(5, 30),)),
    "deep chain over rolled values": (
        lambda x: sum((x := torch.tanh(x + x.roll(k, 1))) for k in range(1, 7)),
        (_r(3, 16),),
    ),
}

BACKWARD: dict[str, Case] = {
    "layer_norm": FORWARD["layer_norm"],
    "rms_norm": FORWARD["rms_norm"],
    "group_norm": FORWARD["group_norm"],
    "softmax": FORWARD["softmax"],
    "log_softmax": (lambda x: torch.log_softmax(x, 1), (_r(5, 30),)),
    "gelu": (lambda x: F.gelu(x) * F.gelu(x, approximate="tanh"), (_r(5, 30),)),
    "silu": (F.silu, (_r(5, 30),)),
    "broadcast": (lambda x, y: x * y, (_r(5, 1, 30), _r(4, 1))),
    "variance": (lambda x: x.var(1), (_r(5, 30),)),
}


@pytest.mark.parametrize("name", FORWARD)
def test_forward(name: str, designed: Callable[..., Design]) -> None:
    f, args = FORWARD[name]
    designed(f, *args)


@pytest.mark.parametrize("name", BACKWARD)
def test_backward(name: str, designed: Callable[..., Design]) -> None:
    f, args = BACKWARD[name]
    designed(_grads(f), *args)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["softmax", "layer_norm", "pointwise with broadcasting", "column sum", "cat"])
def test_other_floats(name: str, dtype: torch.dtype, designed: Callable[..., Design]) -> None:
    f, args = FORWARD[name]
    designed(f, *(a.to(dtype) for a in args))


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_backward(training: bool, designed: Callable[..., Design]) -> None:
    """Called as the graph has it: traced from a module it comes with constants that no subgraph holds."""
    x, w = _r(4, 3, 5, 6), _r(3)

    def backward(grad: torch.Tensor, x: torch.Tensor, w: torch.Tensor, m: torch.Tensor, v: torch.Tensor) -> Any:
        return torch.ops.aten.native_batch_norm_backward(
            grad, x, w, m, v, m, v.rsqrt(), training, 1e-5, [True, True, True]
        )

    designed(backward, _r(4, 3, 5, 6) + 1, x, w, x.mean((0, 2, 3)), x.var((0, 2, 3)))


def test_mixed_dtypes(designed: Callable[..., Design]) -> None:
    designed(lambda x, y, m: (x * y + m, (x > y) & m, x.double() + y), _r(5, 7), _r(5, 7).bfloat16(), _r(7) > 0)


def test_nan_and_infinity_are_where_torch_has_them(designed: Callable[..., Design]) -> None:
    x = _r(6, 20)
    x[0, 3], x[1, 4], x[2, 5] = torch.nan, torch.inf, -torch.inf
    x[3] = -torch.inf
    designed(lambda x: (x.amax(1), x.argmax(1), x.argmin(1), torch.softmax(x, 1), x.relu(), x.clamp(-1, 1)), x)
    designed(lambda x: (torch.logsumexp(x, 1), torch.minimum(x, x.flip(1)), torch.sign(x)), x)


def test_ties_give_the_first_index(designed: Callable[..., Design]) -> None:
    x = _i(3, 7, 50).float()
    designed(lambda x: (x.argmax(1), x.argmin(0), x.argmax()), x)


def test_strides_of_inputs_and_outputs_are_kept(designed: Callable[..., Design]) -> None:
    base = _r(12, 40)
    designed(lambda x, y: x * 2 + y, base[::2, 3:33:3], base.t()[5:15, :6].t())
    designed(lambda x: x.to(memory_format=torch.channels_last) * 2, _r(2, 5, 3, 4))


@pytest.mark.parametrize(
    "name", ["softmax", "layer_norm", "column sum", "cat", "cross entropy", "sum over outer and inner"]
)
def test_symbolic_sizes(name: str, designed: Callable[..., Design]) -> None:
    f, args = FORWARD[name]
    if name == "layer_norm":

        def f(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return F.layer_norm(x, (x.shape[-1],), w, b)

    found = designed(f, *args, mode="symbolic")
    assert any(isinstance(value, str) for _, value in found.symbols)


def _subgraph(target: str, *shape: int, extra: tuple[int, ...] = ()) -> Subgraph:
    spec = TensorSpec("float32", shape, tuple(torch.empty(shape).stride()))
    return Subgraph((spec,), (), (OpNode(target, (Ref(0), *extra), (), spec),), (1,))


def test_one_sketch_serves_all_sizes() -> None:
    a, b = (design(_subgraph("aten.relu.default", *s), Target()) for s in ((64, 100), (33, 1000)))
    assert isinstance(a, Design)
    assert isinstance(b, Design)
    assert a.sketch == b.sketch
    assert a.symbols != b.symbols


def test_contiguous_pointwise_is_one_loop() -> None:
    found = design(_subgraph("aten.relu.default", 16, 32, 64), Target())
    assert isinstance(found, Design)
    (loop,) = found.sketch.body
    assert isinstance(loop, For)
    assert loop.parallel
    assert not any(isinstance(s, For) for s in loop.body)


def test_transpositions_are_tiled_both_ways(designed: Callable[..., Design]) -> None:
    found = designed(lambda x, y: x.t() + y, _r(40, 50), _r(50, 40))
    assert [c.name for c in found.sketch.constexprs] == ["BI", "BJ"]
    found = designed(lambda x: torch.softmax(x.permute(0, 2, 1), -1), _r(2, 40, 300))
    assert {c.name for c in found.sketch.constexprs} == {"BC", "BT"}


@pytest.mark.parametrize(("columns", "times"), [(1100, 1), (70_000, 2)])
def test_what_costs_much_is_computed_once_in_a_row_that_stays_in_cache(columns: int, times: int) -> None:
    found = design(_subgraph("aten.softmax.int", 64, columns, extra=(-1,)), Target())
    assert isinstance(found, Design)
    assert to_text(found.sketch).count("exp(") == times


@pytest.mark.parametrize(
    ("f", "loops"),
    [
        (lambda x, y: F.cosine_similarity(x, y), 1),
        (lambda x, y: F.kl_div(torch.log_softmax(x, 1), torch.softmax(y, 1), reduction="batchmean"), 2),
    ],
    ids=["cosine similarity", "a loss over softmaxes"],
)
def test_rows_wanted_together_share_a_loop(
    f: Callable[..., torch.Tensor], loops: int, designed: Callable[..., Design]
) -> None:
    found = designed(f, _r(40, 300), _r(40, 300))
    assert sum(isinstance(s, For) for s in found.sketch.body) == loops


def test_a_sketch_is_text_that_parses_back() -> None:
    found = design(_subgraph("aten.relu.default", 16, 32), Target())
    assert isinstance(found, Design)
    assert parse(to_text(found.sketch)) == found.sketch


def test_an_operator_without_a_rule_is_a_typed_no() -> None:
    assert not supported("aten.sort.default")
    found = design(_subgraph("aten.sort.default", 4), Target())
    assert isinstance(found, SplitReason)
    assert "sort" in found.detail
