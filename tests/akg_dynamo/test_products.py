"""Products with unaligned rows: which are rewritten, and that the values are those of torch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

from akg_dynamo import products
from akg_dynamo.core.types import SplitReasonType, Target
from akg_dynamo.executor import write_forward
from akg_dynamo.fusion.partition import plan
from akg_dynamo.options import Options
from akg_dynamo.products import align_products, linear_in_blocks, linear_of_blocks, mm_of_blocks
from akg_dynamo.recompose import recompose


@pytest.mark.parametrize("shape", [(7, 32), (2, 5, 32), (1, 32), (0, 32)])
@pytest.mark.parametrize("columns", [5, 8, 17])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values(shape: tuple[int, ...], columns: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_BLOCK_BYTES", 200)  # a few rows
    x, w = torch.randn(shape).to(dtype), torch.randn(columns, 32).to(dtype)
    got, want = linear_in_blocks(x, w), F.linear(x, w)
    assert got.is_contiguous()
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("shape", [(7, 33), (2, 5, 33), (1, 33), (0, 33)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_of_the_gradients(shape: tuple[int, ...], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_BLOCK_BYTES", 300)
    monkeypatch.setattr(products, "_TILE", 8)
    grad, w, x = torch.randn(shape).to(dtype), torch.randn(33, 16).to(dtype), torch.randn(shape).to(dtype)[..., :8]
    got, want = linear_of_blocks(grad, w.t()), F.linear(grad, w.t())
    assert got.is_contiguous()
    torch.testing.assert_close(got, want)
    flat, rows = grad.view(-1, 33), x.reshape(-1, 8)
    got, want = mm_of_blocks(flat.t(), rows), torch.mm(flat.t(), rows)
    assert got.is_contiguous()
    torch.testing.assert_close(got, want)


def test_rows_that_are_not_contiguous() -> None:
    x, w = torch.randn(32, 9).t(), torch.randn(5, 32)
    torch.testing.assert_close(linear_in_blocks(x, w), F.linear(x, w))


def graph(
    rows: int, inner: int, columns: int, *, dtype: torch.dtype, device: str, bias: bool = False
) -> fx.GraphModule:
    with FakeTensorMode():
        x = torch.empty(rows // 8, 8, inner, dtype=dtype, device=device)
        w, b = (torch.empty(s, dtype=dtype, device=device) for s in ((columns, inner), (columns,)))
        gm = make_fx(lambda x, w, b: F.linear(x, w, b if bias else None))(x, w, b)
    recompose(gm)
    align_products(gm.graph)
    return gm


def is_rewritten(gm: fx.GraphModule) -> bool:
    return any(n.target is linear_in_blocks for n in gm.graph.nodes)


BIG = {"rows": 8192, "inner": 1024, "columns": 50257, "dtype": torch.bfloat16, "device": "cuda"}


@pytest.mark.parametrize(
    "other",
    [
        {"columns": 50264},
        {"inner": 1023},
        {"rows": 8},
        {"columns": 257},
        {"dtype": torch.float32},
        {"device": "cpu"},
        {"bias": True},
    ],
)
def test_which_are_rewritten(other: dict[str, object]) -> None:
    assert is_rewritten(graph(**BIG))  # type: ignore[arg-type]
    assert not is_rewritten(graph(**{**BIG, **other}))  # type: ignore[arg-type]


def gradients(rows: int, inner: int, columns: int, device: str = "cuda") -> list[object]:
    """What the products of a linear layer's backward pass become."""
    with FakeTensorMode():
        grad, w, x = (
            torch.empty(shape, dtype=torch.bfloat16, device=device)
            for shape in ((rows // 8, 8, columns), (columns, inner), (rows, inner))
        )

        def backward(grad: Tensor, w: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
            flat = grad.view(rows, columns)
            return torch.mm(flat, w.t().t()).view(rows // 8, 8, inner), torch.mm(flat.t(), x)

        gm = make_fx(backward)(grad, w, x)
    recompose(gm)
    align_products(gm.graph)
    return [n.target for n in gm.graph.nodes if n.op == "call_function"]


def test_the_gradients_of_one_that_is_rewritten_are_too() -> None:
    found = gradients(8192, 1024, 50257)
    assert linear_of_blocks in found
    assert mm_of_blocks in found
    for others in ((8192, 1024, 50264), (8192, 1023, 50257), (8, 1024, 50257), (8192, 1024, 257)):
        found = gradients(*others)
        assert linear_of_blocks not in found
        assert mm_of_blocks not in found
    assert not {linear_of_blocks, mm_of_blocks} & set(gradients(8192, 1024, 50257, "cpu"))


def test_it_is_reported_and_executed_as_a_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_LEAST_OPERATIONS", 0)
    monkeypatch.setattr(products, "_LEAST_ODD", 1)
    gm = graph(64, 16, 5, dtype=torch.bfloat16, device="cuda")
    (node,) = [n for n in gm.graph.nodes if n.target is linear_in_blocks]
    target = Target("cuda", "triton_cuda", "sm_90", "sm_90")
    assert plan(gm, target=target, options=Options()).reasons[node].kind is SplitReasonType.MATMUL

    def refuse(*_: object) -> tuple[tuple[Tensor, ...], object]:
        raise AssertionError("no kernel here")

    forward = write_forward(gm, [], on_raise=refuse).forward  # type: ignore[arg-type]
    x, w = torch.randn(8, 8, 16).bfloat16(), torch.randn(5, 16).bfloat16()
    found = forward([x, w, w[:, 0]])
    torch.testing.assert_close(found[0] if isinstance(found, tuple) else found, F.linear(x, w))
