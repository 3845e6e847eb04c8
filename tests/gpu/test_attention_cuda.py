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


FUNCTIONS = [masked, causal, heads_joined, made_contiguous, joined_and_written]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("length", [64, 197])
@pytest.mark.parametrize("f", FUNCTIONS)
def test_values_gradients_and_layouts(f: Function, length: int, dtype: torch.dtype) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    inputs = [torch.randn(2, 4, length, 64, device="cuda", dtype=dtype) for _ in range(3)]
    results = []
    for g in (f, torch.compile(f, backend="akg", options={"generation": "cached"})):
        copies = [x.clone().requires_grad_() for x in inputs]
        output = g(*copies)
        output.float().mul(0.1).square().sum().backward()
        results.append([output.detach(), *(x.grad for x in copies)])
    assert results[1][0].stride() == results[0][0].stride()
    rounding = 3e-2 if dtype is torch.bfloat16 else 1e-4
    for expected, actual in zip(*results, strict=True):
        largest = float(expected.abs().max())
        torch.testing.assert_close(actual, expected, rtol=rounding, atol=rounding * largest)


def test_flash_attention_runs() -> None:
    """A model's usual form loses its mask, and with it the slower kernel."""
    inputs = [torch.randn(2, 4, 197, 64, device="cuda", dtype=torch.bfloat16) for _ in range(3)]
    for f in (heads_joined, made_contiguous):
        torch._dynamo.reset()
        compiled = torch.compile(f, backend="akg", options={"generation": "cached"})
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            compiled(*inputs)
        assert akg_dynamo.explain()[-1].rewrites
        names = {event.name for event in profile.events()}
        assert any("flash" in name or "cudnn" in name for name in names), names
