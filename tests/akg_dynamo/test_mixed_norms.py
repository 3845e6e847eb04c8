"""Autocast on a CPU: norms whose weights are wider than their input, about which tracing says wrong dtypes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from akg_dynamo.core.types import Subgraph

from .conftest import ReferenceSolver, Run

MODELS = {
    "layer norm": (lambda: nn.Sequential(nn.Linear(8, 64), nn.GELU(), nn.LayerNorm(64), nn.Linear(64, 8)), (10, 8)),
    "group norm": (lambda: _images(nn.GroupNorm(2, 8)), (4, 3, 12, 12)),
    "batch norm": (lambda: _images(nn.BatchNorm2d(8)), (4, 3, 12, 12)),
    "batch norm without weights": (lambda: _images(nn.BatchNorm2d(8, affine=False)), (4, 3, 12, 12)),
    "instance norm": (lambda: _images(nn.InstanceNorm2d(8, affine=True)), (4, 3, 12, 12)),
}


def _images(norm: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU(), norm, nn.SiLU(), nn.Conv2d(8, 4, 3))


def typed(sub: Subgraph, run: Run) -> Run:
    """As a kernel is: it takes the dtypes that were traced, and gives those that were traced."""

    def go(*inputs: object) -> tuple[Tensor, ...]:
        for given, spec in zip(inputs, sub.inputs, strict=False):
            assert isinstance(given, Tensor)
            assert str(given.dtype).removeprefix("torch.") == spec.dtype
        outputs = run(*inputs)
        return tuple(o.to(getattr(torch, spec.dtype)) for o, spec in zip(outputs, sub.output_specs, strict=True))

    return go


def step(model: nn.Module, call: nn.Module, x: Tensor, dtype: torch.dtype) -> list[Tensor]:
    with torch.autocast("cpu", dtype=dtype):
        loss = call(x).float().square().mean()
    loss.backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    return [loss.detach(), *grads, *(b for b in model.buffers() if b.is_floating_point())]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", MODELS)
def test_a_training_step(name: str, dtype: torch.dtype, solver: ReferenceSolver) -> None:
    solver.wrap = typed
    torch.manual_seed(0)
    build, shape = MODELS[name]
    model, x = build(), torch.randn(shape)
    twin = copy.deepcopy(model)
    compiled = torch.compile(model, backend="akg", options={"gate": "correct"})
    for ours, theirs in zip(step(model, compiled, x, dtype), step(twin, twin, x, dtype), strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=0.02, atol=1e-4)
    assert solver.calls > 0
    assert not solver.quarantined


def test_a_norm_whose_statistics_nobody_reads_is_a_kernel(solver: ReferenceSolver) -> None:
    solver.wrap = typed
    model, x = nn.Sequential(nn.GELU(), nn.LayerNorm(64)), torch.randn(10, 64, dtype=torch.bfloat16)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, backend="akg", options={"gate": "correct"})(x), model(x))
    assert any("native_layer_norm" in sub.text for sub in solver.solved)
