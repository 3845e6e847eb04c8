"""What a forward pass saves: no more than Inductor's, though composite operators are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch._dynamo.backends.common import aot_autograd
from torch._functorch import config, partitioners
from torch._functorch._aot_autograd.utils import make_boxed_func
from torch._inductor.decomposition import select_decomp_table
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

from akg_dynamo import rematerialise
from akg_dynamo.rematerialise import partition

N = 64


def saved_bytes(f: Callable[..., Tensor], partition_fn: Any, decompositions: Mapping[Any, Any]) -> tuple[int, Tensor]:
    """What is kept for the backward pass beside the inputs, and the gradient."""
    torch._dynamo.reset()
    kept = 0

    def forward(gm: fx.GraphModule, _inputs: object) -> Any:
        nonlocal kept
        (outputs,) = next(n for n in reversed(gm.graph.nodes) if n.op == "output").args
        values = {n: n.meta["val"] for n in outputs[1:] if isinstance(n, fx.Node) and n.op != "placeholder"}
        kept = sum(v.numel() * v.element_size() for v in values.values() if isinstance(v, Tensor))
        return make_boxed_func(gm.forward)

    def backward(gm: fx.GraphModule, _inputs: object) -> Any:
        return make_boxed_func(gm.forward)

    torch.manual_seed(0)
    x, w = torch.randn(N, N, requires_grad=True), torch.randn(N, N, requires_grad=True)
    compiler = aot_autograd(
        fw_compiler=forward, bw_compiler=backward, decompositions=decompositions, partition_fn=partition_fn
    )
    with config.patch(enable_autograd_cache=False):
        torch.compile(f, backend=compiler)(x, w).sum().backward()
    assert x.grad is not None
    return kept, x.grad


def gelu(h: Tensor) -> Tensor:
    """As some models write it."""
    return 0.5 * h * (1 + torch.tanh(0.8 * (h + 0.04 * h.pow(3))))


CASES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "tanh": lambda x, w: torch.tanh(torch.mm(x, w) * 2) @ w,
    "gelu by hand": lambda x, w: gelu(x @ w) @ w,
    "silu": lambda x, w: (F.silu(x @ w) * (x @ w.t())) @ w,
    "sigmoid": lambda x, w: (torch.sigmoid(x @ w) * x) @ w,
    "elu": lambda x, w: (F.elu(x @ w) + 1) @ w,
    "hardswish": lambda x, w: (F.hardswish(x @ w) * 2) @ w,
}


@pytest.mark.parametrize("case", CASES)
def test_no_more_than_inductor_saves(case: str) -> None:
    f = CASES[case]
    theirs, want = saved_bytes(f, partitioners.min_cut_rematerialization_partition, select_decomp_table())
    ours, got = saved_bytes(f, partition, {})
    assert ours <= theirs
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)


def test_a_dropout_of_nothing_saves_nothing() -> None:
    plain, want = saved_bytes(lambda x, w: F.relu(x @ w) @ w, partition, {})
    dropped, got = saved_bytes(lambda x, w: F.dropout(F.relu(x @ w), 0.0, training=True) @ w, partition, {})
    assert dropped == plain
    torch.testing.assert_close(got, want)


def test_the_list_is_needed() -> None:
    without, _ = saved_bytes(CASES["gelu by hand"], partitioners.min_cut_rematerialization_partition, {})
    with_list, _ = saved_bytes(CASES["gelu by hand"], partition, {})
    assert with_list < without


def test_torchs_own_list_stays_as_it_is() -> None:
    before = partitioners.get_default_op_list
    saved_bytes(CASES["tanh"], partition, {})
    assert partitioners.get_default_op_list is before
    assert torch.ops.aten.detach not in before().recomputable_ops


def test_copies_that_are_returned_or_of_inputs_stay() -> None:
    def f(x: Tensor, w: Tensor) -> tuple[Tensor, ...]:
        a = x @ w
        b = a.clone()  # returned through a view
        c = w.t().clone(memory_format=torch.preserve_format)  # of an input
        d = a.sin()
        return b.view(-1), d, d.clone(), c * 2, a.t().clone(memory_format=torch.contiguous_format) @ w

    gm = make_fx(f, tracing_mode="fake")(torch.randn(4, 4), torch.randn(4, 4))
    before = [n.target for n in gm.graph.nodes]
    rematerialise._drop_clones(gm.graph)
    assert [n.target for n in gm.graph.nodes] == before


def test_a_copy_of_what_is_the_graphs_own_goes() -> None:
    gm = make_fx(lambda x, w: (x @ w).relu().clone() @ w, tracing_mode="fake")(torch.randn(4, 4), torch.randn(4, 4))
    rematerialise._drop_clones(gm.graph)
    assert torch.ops.aten.clone.default not in [n.target for n in gm.graph.nodes]


def pooled(x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    values, places = torch.ops.aten.max_pool2d_with_indices(x, [3, 3], [2, 2], [1, 1])
    back = torch.ops.aten.max_pool2d_with_indices_backward(grad, x, [3, 3], [2, 2], [1, 1], [1, 1], False, places)
    return values, back


@pytest.mark.parametrize(
    ("plane", "bits"), [((128, 128), torch.int16), ((256, 128), torch.int16), ((256, 256), torch.int32)]
)
def test_places_of_maxima_are_saved_narrow(plane: tuple[int, int], bits: torch.dtype) -> None:
    x, grad = torch.randn(32, 1, *plane), torch.randn(32, 1, *(n // 2 for n in plane))
    with FakeTensorMode():
        gm = make_fx(pooled)(*(torch.empty(t.shape, device="cuda") for t in (x, grad)))
    rematerialise._narrow_positions(gm.graph)
    gm.recompile()
    small, wide = (n for n in gm.graph.nodes if n.target is torch.ops.aten._to_copy.default)
    assert (small.meta["val"].dtype, wide.meta["val"].dtype) == (bits, torch.int64)
    assert wide.args == (small,)
    assert next(iter(wide.users)).target is torch.ops.aten.max_pool2d_with_indices_backward.default
    for got, want in zip(gm(x, grad), pooled(x, grad), strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("case", ["returned", "small", "on the CPU"])
def test_other_places_stay_wide(case: str) -> None:
    def returned(x: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
        return *pooled(x, grad), torch.ops.aten.max_pool2d_with_indices(x, [3, 3], [2, 2], [1, 1])[1]

    batch, device = 2 if case == "small" else 32, "cpu" if case == "on the CPU" else "cuda"
    with FakeTensorMode():
        shapes = (batch, 1, 128, 128), (batch, 1, 64, 64)
        f = returned if case == "returned" else pooled
        gm = make_fx(f)(*(torch.empty(shape, device=device) for shape in shapes))
    rematerialise._narrow_positions(gm.graph)
    casts = [n for n in gm.graph.nodes if n.target is torch.ops.aten._to_copy.default]
    assert len(casts) == (2 if case == "returned" else 0)  # of the pooling whose places stay inside
