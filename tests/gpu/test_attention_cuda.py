"""Attention without a mask that says nothing of the input runs in another kernel: values and layouts stay eager's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import akg_dynamo

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

Function = Callable[..., Tensor]
"""Of query, key and value; `mask=False`: the same without a mask tensor, as whoever knows what it says would write."""


def masked(q: Tensor, k: Tensor, v: Tensor, *, mask: bool = True) -> Tensor:
    if not mask:
        return F.scaled_dot_product_attention(q, k, v)
    rows = torch.arange(q.shape[2], device=q.device)[:, None]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=(rows >= 0).expand(q.shape[2], q.shape[2]))


def causal(q: Tensor, k: Tensor, v: Tensor, *, mask: bool = True) -> Tensor:
    if not mask:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    steps = torch.arange(q.shape[2], device=q.device)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=steps <= steps[:, None])


def heads_joined(q: Tensor, k: Tensor, v: Tensor, *, mask: bool = True) -> Tensor:
    joined = causal(q, k, v, mask=mask).transpose(1, 2).reshape(q.shape[0], q.shape[2], -1)
    return joined @ v[0, 0].new_ones(256, 3)


def made_contiguous(q: Tensor, k: Tensor, v: Tensor, *, mask: bool = True) -> Tensor:
    return masked(q, k, v, mask=mask).transpose(1, 2).contiguous().view(q.shape[0], q.shape[2], -1) * 2


def joined_and_written(q: Tensor, k: Tensor, v: Tensor, *, mask: bool = True) -> Tensor:
    return causal(q, k, v, mask=mask).transpose(1, 2).reshape(q.shape[0], q.shape[2], -1).add_(1) * 2


BATCHES = {f: 2 + i for i, f in enumerate((masked, causal, heads_joined, made_contiguous, joined_and_written))}
"""A batch for each: torch takes one plan of cuDNN's for all gradients of a shape, and in eager those that lie otherwise
than the first are wrong (`akg_dynamo/attention_gradients.py`)."""

DTYPES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bfloat16", "float32"])
LENGTHS = pytest.mark.parametrize("length", [64, 197])


def drawn(batch: int, length: int, dtype: torch.dtype) -> list[Tensor]:
    torch._dynamo.reset()
    torch.manual_seed(0)
    return [torch.randn(batch, 4, length, 64, device="cuda", dtype=dtype) for _ in range(3)]


def compiled(f: Function) -> Function:
    return torch.compile(f, backend="akg", options={"generation": "cached"})


def check(what: str, actual: Tensor, eagers: list[Tensor], exact: Tensor) -> None:
    """The layout is eager's, and the error at most twice that of eager's kernels, for attention with a mask or without.

    They sum in different orders: in fp32 the one without a mask errs up to three times as much.
    """
    said = [text for report in akg_dynamo.explain() for text in report.rewrites]
    eager = eagers[0]
    assert (actual.dtype, actual.shape, actual.stride()) == (eager.dtype, eager.shape, eager.stride()), (what, said)
    mine, *theirs, largest = (
        float(x.double().abs().max()) for x in (actual - exact, *(e - exact for e in eagers), exact)
    )
    assert max(theirs) <= 0.05 * largest, f"{what}: eager is wrong itself, by {theirs} of {largest:.3g}"
    allowed = 2 * max(theirs) + 8 * torch.finfo(actual.dtype).eps * largest
    assert mine <= allowed, f"{what}: error {mine:.3g}, eager's {theirs}, largest {largest:.3g}; {said}"


def results(f: Function, inputs: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """The output, and the gradients of the inputs."""
    copies = [x.to(dtype, copy=True).requires_grad_() for x in inputs]
    output = f(*copies)
    (0.1 * output.to(torch.float64)).square().sum().backward()
    gradients = [x.grad for x in copies]
    return [output.detach(), *(g for g in gradients if g is not None)]


NAMES = ("output", "dq", "dk", "dv")


@DTYPES
@LENGTHS
@pytest.mark.parametrize("f", [masked, causal, heads_joined, made_contiguous])
def test_values_gradients_and_layouts(f: Function, length: int, dtype: torch.dtype) -> None:
    inputs = drawn(BATCHES[f], length, dtype)
    eagers = [results(partial(f, mask=mask), inputs, dtype) for mask in (True, False)]
    exact = results(f, inputs, torch.float64)
    for what, mine, *theirs, best in zip(NAMES, results(compiled(f), inputs, dtype), *eagers, exact, strict=True):
        check(what, mine, theirs, best)


@pytest.mark.parametrize(
    ("before", "f"), [(masked, made_contiguous), (made_contiguous, masked), (causal, heads_joined)]
)
def test_gradients_where_eager_has_laid_them_out_otherwise(before: Function, f: Function) -> None:
    """Attention of the same shape has run before, in eager and compiled, and its gradients lay in another way."""
    inputs = drawn(7 + BATCHES[f], 64, torch.bfloat16)
    results(partial(before, mask=False), inputs, torch.bfloat16)
    results(compiled(before), inputs, torch.bfloat16)
    torch._dynamo.reset()
    mine, exact = results(compiled(f), inputs, torch.bfloat16), results(f, inputs, torch.float64)
    for what, actual, best in zip(NAMES, mine, exact, strict=True):
        error, largest = (float(x.abs().max()) for x in (actual.double() - best, best))
        assert error <= 4 * torch.finfo(torch.bfloat16).eps * largest, f"{what}: error {error:.3g} of {largest:.3g}"


@DTYPES
@LENGTHS
def test_what_is_written_to(length: int, dtype: torch.dtype) -> None:
    """Whether joining the heads copies depends on the kernel, and so does what the sum is written over."""
    f = joined_and_written
    inputs = drawn(BATCHES[f], length, dtype)
    exact = f(*[x.double() for x in inputs])
    check("output", compiled(f)(*inputs), [f(*inputs), f(*inputs, mask=False)], exact)


def test_flash_attention_runs() -> None:
    """A model's usual form loses its mask, and with it the slower kernel."""
    for f in (heads_joined, made_contiguous):
        inputs = drawn(BATCHES[f], 197, torch.bfloat16)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            compiled(f)(*inputs)
        assert akg_dynamo.explain()[-1].rewrites
        names = {event.name for event in profile.events()}
        assert any("flash" in name or "cudnn" in name for name in names), names
