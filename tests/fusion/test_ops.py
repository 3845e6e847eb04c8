"""The operator table against torch's own registry."""

from __future__ import annotations

import operator

import pytest
import torch
import torch.nn.functional as F
from graphs import capture

from akg_dynamo.core.types import SplitReasonType
from akg_dynamo.fusion import ops
from akg_dynamo.fusion.ops import OpKind, classify, fusible

aten = torch.ops.aten


def test_every_name_in_the_tables_is_an_operator() -> None:
    names = {n for _, table in ops._TABLES for n in table} | {n for table in ops._STAY.values() for n in table}
    assert not [n for n in names if not hasattr(aten, n)]


def test_no_name_is_in_two_tables() -> None:
    tables = [*(t for _, t in ops._TABLES), *ops._STAY.values()]
    assert sum(map(len, tables)) == len(frozenset().union(*tables))


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        (aten.add.Tensor, OpKind.POINTWISE),
        (aten.add_.Tensor, OpKind.MUTATION),
        (aten.add.out, OpKind.MUTATION),
        (aten.sum.dim_IntList, OpKind.REDUCTION),
        (aten._softmax.default, OpKind.NORM),
        (aten.native_layer_norm_backward.default, OpKind.NORM),
        (aten._to_copy.default, OpKind.CAST),
        (aten.index.Tensor, OpKind.GATHER),
        (aten.max_pool2d_with_indices.default, OpKind.WINDOW),
        (aten.cat.default, OpKind.MOVE),
        (aten.arange.start_step, OpKind.CREATION),
        (aten.view.default, OpKind.VIEW),
        (aten.as_strided.default, OpKind.VIEW),
        (aten._unsafe_view.default, OpKind.VIEW),
        (aten.mm.default, OpKind.MATMUL),
        (aten.convolution.default, OpKind.CONV),
        (aten._scaled_dot_product_flash_attention_for_cpu.default, OpKind.ATTENTION),
        (aten.topk.default, OpKind.SORT),
        (aten.native_dropout.default, OpKind.RANDOM),
        (aten.nonzero.default, OpKind.DATA_DEPENDENT),
        (aten._local_scalar_dense.default, OpKind.DATA_DEPENDENT),
        (aten.sym_size.int, OpKind.SYMBOLIC),
        (operator.mul, OpKind.SYMBOLIC),
        (operator.getitem, OpKind.GETITEM),
        (aten.cumsum.default, OpKind.OTHER),
    ],
)
def test_kinds(target: object, kind: OpKind) -> None:
    assert classify(target) is kind


def test_reasons_are_typed() -> None:
    def f(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return x[x > 0], x.to(torch.complex64) * 2, torch.rand_like(x), x.cumsum(0), x[:0] * 2

    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        (gm,) = capture(f, torch.randn(4))
    kinds = {r.kind for n in gm.graph.nodes if (r := fusible(n)) is not None}
    expected = {"UNSUPPORTED", "DTYPE", "RANDOM", "TOO_SMALL", "NOT_TENSOR"}
    assert expected <= {k.name for k in kinds}
    on_gpu = [fusible(n, "cuda") for n in gm.graph.nodes if n.target is aten.gt.Scalar]
    assert [r.kind for r in on_gpu if r] == [SplitReasonType.DEVICE]


def test_windows_without_a_rule() -> None:
    def f(x: torch.Tensor, i: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (
            F.max_pool2d(x, 3),
            F.avg_pool2d(x, (2, 4)),
            F.avg_pool2d(x, 9),
            F.avg_pool2d(i, 2),
            *F.max_pool2d(x, 2, return_indices=True),
        )

    (gm,) = capture(f, torch.randn(1, 2, 9, 9), torch.ones(1, 2, 8, 8, dtype=torch.int64))
    found = [fusible(n) for n in gm.graph.nodes if classify(n) is OpKind.WINDOW]
    assert found[:2] == [None, None]
    details = [r.detail.partition(": ")[2] for r in found[2:] if r is not None]
    assert details == ["a window of 81 elements", "a mean of integers", "the positions of the maxima are read"]
