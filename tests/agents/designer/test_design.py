"""Every family of operators: designed, interpreted, compared with torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from families import BACKWARD, FORWARD, gradients, ints, rand

from akg_dynamo.agents.designer.rules import design, supported
from akg_dynamo.agents.sketch import parse, to_text
from akg_dynamo.agents.sketch.ast import For
from akg_dynamo.core.types import Design, OpNode, Ref, SplitReason, Subgraph, Target, TensorSpec

CUDA = Target("cuda", "triton_cuda", "sm_90", "sm_90")


@pytest.mark.parametrize("name", FORWARD)
def test_forward(name: str, designed: Callable[..., Design]) -> None:
    f, args = FORWARD[name]
    designed(f, *args)


@pytest.mark.parametrize("name", BACKWARD)
def test_backward(name: str, designed: Callable[..., Design]) -> None:
    f, args = BACKWARD[name]
    designed(gradients(f), *args)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["softmax", "layer_norm", "pointwise with broadcasting", "column sum", "cat"])
def test_other_floats(name: str, dtype: torch.dtype, designed: Callable[..., Design]) -> None:
    f, args = FORWARD[name]
    designed(f, *(a.to(dtype) for a in args))


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_backward(training: bool, designed: Callable[..., Design]) -> None:
    """Called as the graph has it: traced from a module it comes with constants that no subgraph holds."""
    x, w = rand(4, 3, 5, 6), rand(3)

    def backward(grad: torch.Tensor, x: torch.Tensor, w: torch.Tensor, m: torch.Tensor, v: torch.Tensor) -> Any:
        return torch.ops.aten.native_batch_norm_backward(
            grad, x, w, m, v, m, v.rsqrt(), training, 1e-5, [True, True, True]
        )

    designed(backward, rand(4, 3, 5, 6) + 1, x, w, x.mean((0, 2, 3)), x.var((0, 2, 3)))


def test_mixed_dtypes(designed: Callable[..., Design]) -> None:
    designed(lambda x, y, m: (x * y + m, (x > y) & m, x.double() + y), rand(5, 7), rand(5, 7).bfloat16(), rand(7) > 0)


def test_nan_and_infinity_are_where_torch_has_them(designed: Callable[..., Design]) -> None:
    x = rand(6, 20)
    x[0, 3], x[1, 4], x[2, 5] = torch.nan, torch.inf, -torch.inf
    x[3] = -torch.inf
    designed(lambda x: (x.amax(1), x.argmax(1), x.argmin(1), torch.softmax(x, 1), x.relu(), x.clamp(-1, 1)), x)
    designed(lambda x: (torch.logsumexp(x, 1), torch.minimum(x, x.flip(1)), torch.sign(x)), x)


def test_infinite_softmax_gradients_are_as_torch_has_them(
    designed: Callable[..., Design],
    to_subgraph: Callable[..., tuple[Subgraph, list[int], list[int]]],
    run_interpreted: Callable[..., list[torch.Tensor]],
    compare: Callable[..., None],
) -> None:
    """On each device by the formula of its kernel: (g - s) * y on CPUs, g * y - s * y on CUDA."""

    def backward(g: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.ops.aten._softmax_backward_data(g, y, 1, torch.float32)

    g, y = rand(7, 20), rand(7, 20).abs()
    g[0, 3], g[1, 4], g[2, 5] = torch.nan, torch.inf, -torch.inf
    y[3, 6], y[4, 7], y[5, 8], g[5, 8] = torch.inf, 0.0, torch.inf, -1.0
    y[4, 7], g[4, 7] = 0.0, torch.inf
    designed(backward, g, y)
    designed(lambda g, y: torch.ops.aten._log_softmax_backward_data(g, y, 1, torch.float32), g, y)
    sub, order, _ = to_subgraph(backward, (g, y))
    there = _on_cuda(sub)
    found = design(there, CUDA)
    assert isinstance(found, Design)
    weighted = g * y
    want = weighted - y * weighted.sum(1, keepdim=True)
    assert (want.isnan() != backward(g, y).isnan()).any()
    compare(run_interpreted(found, there, [(g, y)[i] for i in order]), [want], "on CUDA")


def _on_cuda(sub: Subgraph) -> Subgraph:
    """The same on a GPU."""

    def there(spec: TensorSpec) -> TensorSpec:
        return replace(spec, device="cuda")

    (node,) = sub.nodes
    assert isinstance(node.out, TensorSpec)
    return replace(sub, inputs=tuple(map(there, sub.inputs)), nodes=(replace(node, out=there(node.out)),))


@pytest.mark.parametrize("affine", [(True, True), (True, False), (False, True), (False, False)])
def test_infinite_group_norms_are_as_torch_has_them(affine: tuple[bool, bool], designed: Callable[..., Design]) -> None:
    """Torch multiplies by the product of scale and weight, so that an infinite one makes NaN where signs differ."""
    x, w, b = rand(5, 6, 3, 4), rand(6), rand(6)
    x[0, 3, 1, 2], x[1, 0, 0, 0] = torch.inf, torch.nan
    w[0], w[1], w[2], b[3] = torch.inf, -torch.inf, 0.0, torch.inf

    def normalised(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return F.group_norm(x, 3, w if affine[0] else None, b if affine[1] else None)

    designed(normalised, x, w, b)


def test_ties_give_the_first_index(designed: Callable[..., Design]) -> None:
    x = ints(3, 7, 50).float()
    designed(lambda x: (x.argmax(1), x.argmin(0), x.argmax()), x)


def test_strides_of_inputs_and_outputs_are_kept(designed: Callable[..., Design]) -> None:
    base = rand(12, 40)
    designed(lambda x, y: x * 2 + y, base[::2, 3:33:3], base.t()[5:15, :6].t())
    designed(lambda x: x.to(memory_format=torch.channels_last) * 2, rand(2, 5, 3, 4))


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
    found = designed(lambda x, y: x.t() + y, rand(40, 50), rand(50, 40))
    assert [c.name for c in found.sketch.constexprs] == ["BI", "BJ"]
    found = designed(lambda x: torch.softmax(x.permute(0, 2, 1), -1), rand(2, 40, 300))
    assert {c.name for c in found.sketch.constexprs} == {"BC", "BT"}


@pytest.mark.parametrize(("columns", "times"), [(1100, 1), (70_000, 2)])
def test_what_costs_much_is_computed_once_in_a_row_that_stays_in_cache(columns: int, times: int) -> None:
    found = design(_subgraph("aten.softmax.int", 64, columns, extra=(-1,)), Target())
    assert isinstance(found, Design)
    assert to_text(found.sketch).count("exp(") == times


def test_arg_extremes_of_few_long_rows_in_chunks(designed: Callable[..., Design]) -> None:
    x = rand(2, 530_001)
    x[1] = -float("inf")
    x[0, [400_000, 500_000]] = float("nan")
    found = designed(lambda x: (x.argmax(1), x.round().argmin(1), (x * 3).argmin(), x.amin()), x)
    assert sum(d.kind == "tmp" for d in found.sketch.tensors) > 2


@pytest.mark.parametrize(
    ("f", "loops"),
    [
        (F.cosine_similarity, 1),
        (lambda x, y: F.kl_div(torch.log_softmax(x, 1), torch.softmax(y, 1), reduction="batchmean"), 2),
    ],
    ids=["cosine similarity", "a loss over softmaxes"],
)
def test_rows_wanted_together_share_a_loop(
    f: Callable[..., torch.Tensor], loops: int, designed: Callable[..., Design]
) -> None:
    found = designed(f, rand(40, 300), rand(40, 300))
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
