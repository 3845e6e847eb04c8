"""Attention without a mask that says nothing of the input runs in another kernel: values and layouts stay eager's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import akg_dynamo

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

Function = Callable[[Tensor, Tensor, Tensor], Tensor]


def masked(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    rows = torch.arange(q.shape[2], device=q.device)[:, None]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=(rows >= 0).expand(q.shape[2], q.shape[2]))


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    steps = torch.arange(q.shape[2], device=q.device)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=steps <= steps[:, None])


def heads_joined(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return causal(q, k, v).transpose(1, 2).reshape(q.shape[0], q.shape[2], -1) @ v[0, 0].new_ones(256, 3)


def made_contiguous(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return masked(q, k, v).transpose(1, 2).contiguous().view(q.shape[0], q.shape[2], -1) * 2


def joined_and_written(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return causal(q, k, v).transpose(1, 2).reshape(q.shape[0], q.shape[2], -1).add_(1) * 2


DTYPES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bfloat16", "float32"])
LENGTHS = pytest.mark.parametrize("length", [64, 197])


def drawn(length: int, dtype: torch.dtype) -> list[Tensor]:
    torch._dynamo.reset()
    torch.manual_seed(0)
    return [torch.randn(2, 4, length, 64, device="cuda", dtype=dtype) for _ in range(3)]


def compiled(f: Function) -> Function:
    return torch.compile(f, backend="akg", options={"generation": "cached"})


def check(what: str, actual: Tensor, eager: Tensor, exact: Tensor) -> None:
    """The layout is eager's, and the error at most twice eager's own."""
    said = [text for report in akg_dynamo.explain() for text in report.rewrites]
    assert (actual.dtype, actual.shape, actual.stride()) == (eager.dtype, eager.shape, eager.stride()), (what, said)
    mine, theirs, largest = (float(x.double().abs().max()) for x in (actual - exact, eager - exact, exact))
    allowed = 2 * theirs + 8 * torch.finfo(eager.dtype).eps * largest
    assert mine <= allowed, f"{what}: error {mine:.3g}, eager's {theirs:.3g}, largest {largest:.3g}; {said}"


@DTYPES
@LENGTHS
@pytest.mark.parametrize("f", [masked, causal, heads_joined, made_contiguous])
def test_values_gradients_and_layouts(f: Function, length: int, dtype: torch.dtype) -> None:
    inputs = drawn(length, dtype)
    results = []
    for g, wanted in ((compiled(f), dtype), (f, dtype), (f, torch.float64)):
        copies = [x.to(wanted, copy=True).requires_grad_() for x in inputs]
        output = g(*copies)
        (0.1 * output.to(torch.float64)).square().sum().backward()
        results.append([output.detach(), *(x.grad for x in copies)])
    for what, *three in zip(("output", "dq", "dk", "dv"), *results, strict=True):
        check(what, *three)


@DTYPES
@LENGTHS
def test_what_is_written_to(length: int, dtype: torch.dtype) -> None:
    """Whether joining the heads copies depends on the kernel, and so does what the sum is written over."""
    inputs = drawn(length, dtype)
    exact = joined_and_written(*[x.double() for x in inputs])
    check("output", compiled(joined_and_written)(*inputs), joined_and_written(*inputs), exact)


def test_flash_attention_runs() -> None:
    """A model's usual form loses its mask, and with it the slower kernel."""
    for f in (heads_joined, made_contiguous):
        inputs = drawn(197, torch.bfloat16)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            compiled(f)(*inputs)
        assert akg_dynamo.explain()[-1].rewrites
        names = {event.name for event in profile.events()}
        assert any("flash" in name or "cudnn" in name for name in names), names
