"""Unrolled loops designed as loops: the sketch against torch, and the way to the GPU without one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from akg_dynamo.agents.coder import by_rules, triton_module, triton_toolchain
from akg_dynamo.agents.designer.rules import design
from akg_dynamo.agents.designer.variants import variants
from akg_dynamo.agents.lowering.triton_interpreter import interpreted
from akg_dynamo.agents.sketch import to_text
from akg_dynamo.core.types import Design, SplitReason, Target
from akg_dynamo.fusion.reference import reference

H200 = Target("cuda", "triton_cuda", "sm_90", "sm_90")
TRIPS = 5
torch.manual_seed(0)


def selective_scan(a: Tensor, dt: Tensor, b: Tensor, u: Tensor, c: Tensor) -> Tensor:
    """Mamba's, as transformers writes it."""
    decay = torch.exp(a[None, :, None, :] * dt[:, :, :, None])
    fed = dt[:, :, :, None] * b[:, None].float() * u[:, :, :, None].float()
    state = torch.zeros(dt.shape[0], dt.shape[1], a.shape[-1], dtype=u.dtype)
    rows = []
    for i in range(dt.shape[2]):
        state = decay[:, :, i] * state + fed[:, :, i]
        rows.append(torch.matmul(state.to(u.dtype), c[:, i, :, None])[:, :, 0])
    return torch.stack(rows, -1)


def with_a_state(x: Tensor, y: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Begins with a tensor, and gives the last state back."""
    rows = []
    for i in range(TRIPS):
        state = state * torch.sigmoid(x[i]) + y[i]
        rows.append((state * x[i]).sum(-1))
    return torch.stack(rows, 1), state


def moving_average(x: Tensor) -> Tensor:
    """Nothing is reduced, and what is carried is what is stacked."""
    state, rows = x.new_full(x[:, 0].shape, 0.25), []
    for i in range(TRIPS):
        state = 0.9 * state + 0.1 * x[:, i]
        rows.append(state)
    return torch.stack(rows, 1)


def backwards(x: Tensor) -> Tensor:
    state, rows = torch.zeros_like(x[0]), []
    for i in reversed(range(TRIPS)):
        state = state + x[2 * i + 1]
        rows.append(state.exp())
    return torch.stack(rows)


def two_states(x: Tensor) -> Tensor:
    """Each reads what the other was."""
    mean, speed, rows = torch.zeros_like(x[0]), torch.ones_like(x[0]), []
    for i in range(TRIPS):
        mean, speed = mean + 0.1 * speed, 0.5 * speed + x[i] - mean
        rows.append(mean * speed)
    return torch.stack(rows)


def delta_rule(k: Tensor, v: Tensor) -> Tensor:
    """A trip reduces what it has read, and changes it by that."""
    state, rows = k.new_zeros(k.shape[0], v.shape[2], k.shape[2]), []
    for i in range(TRIPS):
        key = k[:, i, None, :]
        error = v[:, i, :] - (state * key).sum(-1)
        state = state + error[:, :, None] * key
        rows.append((state * key).sum(-1))
    return torch.stack(rows, 1)


def a_state_of_rows(x: Tensor) -> Tensor:
    """The state varies over fewer axes than what is added up."""
    state, rows = x.new_zeros(x.shape[0]), []
    for i in range(TRIPS):
        state = state * 0.5 + x[:, i].sum(-1)
        rows.append(state)
    return torch.stack(rows, 1)


def with_its_states(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """As a training step has it."""
    state, rows, states = torch.zeros_like(x[0]), [], []
    for i in range(TRIPS):
        state = state * torch.sigmoid(x[i]) + y[i]
        states.append(state)
        rows.append((state * y[i]).sum(-1))
    return torch.stack(rows, -1), torch.stack(states)


def scan_backwards(g: Tensor, c: Tensor, a: Tensor, dt: Tensor) -> Tensor:
    """The gradient of a scan: from the last trip to the first, which has nothing to hand on."""
    carried, rows = torch.zeros(dt.shape[0], dt.shape[1], a.shape[-1]), []
    for i in reversed(range(TRIPS)):
        row = carried + g[:, :, i, None].float() * c[:, i, None, :].float()
        rows.append(row)
        if i > 0:
            carried = row * torch.exp(a * dt[:, :, i, None])
    return torch.stack(rows[::-1], 2)


def slices(x: Tensor) -> Tensor:
    state, rows = torch.zeros_like(x[:, :2]), []
    for i in range(TRIPS):
        state = state * 0.5 + x[:, 2 * i : 2 * i + 2]
        rows.append(state)
    return torch.stack(rows, -1)


def r(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape).to(dtype)


def scan_inputs(dtype: torch.dtype) -> tuple[Tensor, ...]:
    half = torch.rand(2, TRIPS, 24).to(dtype).transpose(1, 2)
    return (
        -torch.rand(24, 12),
        half,
        r(2, TRIPS, 12, dtype=dtype),
        r(2, 24, TRIPS, dtype=dtype),
        r(2, TRIPS, 12, dtype=dtype),
    )


def gradient_inputs(dtype: torch.dtype) -> tuple[Tensor, ...]:
    return r(2, 24, TRIPS, dtype=dtype), r(2, TRIPS, 12, dtype=dtype), -torch.rand(24, 12), r(2, 24, TRIPS, dtype=dtype)


LOOPS: dict[str, tuple[Callable[..., Any], tuple[Tensor, ...]]] = {
    "selective scan": (selective_scan, scan_inputs(torch.float32)),
    "selective scan in bf16": (selective_scan, scan_inputs(torch.bfloat16)),
    "a state that is given and returned": (with_a_state, (r(TRIPS, 40, 9), r(TRIPS, 40, 9), r(40, 9))),
    "moving average": (moving_average, (r(3, TRIPS, 70),)),
    "backwards": (backwards, (r(2 * TRIPS, 6, 33),)),
    "two states": (two_states, (r(TRIPS, 100),)),
    "delta rule": (delta_rule, (r(3, TRIPS, 8), r(3, TRIPS, 20))),
    "a state of rows": (a_state_of_rows, (r(50, TRIPS, 7),)),
    "with its states": (with_its_states, (r(TRIPS, 40, 9), r(TRIPS, 40, 9))),
    "few long rows": (with_its_states, (r(TRIPS, 3, 2100), r(TRIPS, 3, 2100))),
    "its gradient": (scan_backwards, gradient_inputs(torch.float32)),
    "its gradient in bf16": (scan_backwards, gradient_inputs(torch.bfloat16)),
    "slices": (slices, (r(30, 2 * TRIPS),)),
}


def one_loop(found: Design) -> None:
    text = to_text(found.sketch)
    assert "alloc" in text, text
    assert text.count("for t in range") == 1, text


@pytest.mark.parametrize("name", LOOPS)
def test_the_sketch(name: str, designed_for_cuda: Callable[..., Design]) -> None:
    f, args = LOOPS[name]
    one_loop(designed_for_cuda(f, *args))


@pytest.mark.parametrize("name", LOOPS)
def test_every_variant_lowered(
    name: str, to_subgraph: Callable[..., Any], compare: Callable[..., None], tmp_path: Path
) -> None:
    f, args = LOOPS[name]
    sub, order, _ = to_subgraph(f, args)
    inputs = [args[i] for i in order]
    found = variants(sub, H200)
    assert isinstance(found, list)
    for candidate in {c.digest: c for c in (by_rules.write(sub, d, H200, "kernel") for d in found)}.values():
        with interpreted():
            got = triton_module.load(candidate, tmp_path).run(*inputs)
        compare(got, reference(sub)(*inputs), candidate.source)
        triton_toolchain.build(triton_toolchain.load(candidate, tmp_path), H200)


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@pytest.mark.parametrize("name", LOOPS)
def test_nothing_spills(name: str, arch: str, to_subgraph: Callable[..., Any], tmp_path: Path) -> None:
    f, args = LOOPS[name]
    sub, _, _ = to_subgraph(f, args)
    target = Target("cuda", "triton_cuda", arch, arch)
    found = design(sub, target)
    assert isinstance(found, Design)
    module = triton_toolchain.load(by_rules.write(sub, found, target, "kernel"), tmp_path)
    triton_toolchain.build(module, target)
    for kernel in triton_toolchain.resources(module, target):
        assert kernel.spilled_bytes == 0, kernel
        assert kernel.registers * 32 * kernel.num_warps <= 65536, kernel


def test_sizes_that_are_not_known(designed_for_cuda: Callable[..., Design]) -> None:
    one_loop(designed_for_cuda(moving_average, r(3, TRIPS, 70), mode="symbolic"))


def test_rounding_where_eager_rounds(to_subgraph: Callable[..., Any], run_interpreted: Callable[..., Any]) -> None:
    x = r(3, TRIPS, 70, dtype=torch.bfloat16)
    sub, _, _ = to_subgraph(moving_average, (x,))
    found = design(sub, H200, "eager")
    assert isinstance(found, Design)
    one_loop(found)
    (got,) = run_interpreted(found, sub, [x])
    assert torch.equal(got, moving_average(x))


def mixed(x: Tensor) -> Tensor:
    state, rows = torch.zeros_like(x[0]), []
    for i in range(TRIPS):
        state = state.flip(0) * 0.5 + x[i]
        rows.append(state)
    return torch.stack(rows)


def test_elements_that_depend_on_others_are_refused(to_subgraph: Callable[..., Any]) -> None:
    sub, _, _ = to_subgraph(mixed, (r(TRIPS, 16),))
    assert isinstance(design(sub, H200), SplitReason)


def test_rows_that_no_program_holds_are_refused(to_subgraph: Callable[..., Any]) -> None:
    long = r(TRIPS, 2, 10000)
    sub, _, _ = to_subgraph(with_its_states, (long, long))
    assert isinstance(design(sub, H200), SplitReason)
    sub, _, _ = to_subgraph(with_its_states, (r(TRIPS, 40, 9), r(TRIPS, 40, 9)), "symbolic")
    assert isinstance(design(sub, H200), SplitReason), "of any length"


def test_what_reads_a_trip_on_the_way_is_designed_as_it_stands(designed_for_cuda: Callable[..., Design]) -> None:
    def f(x: Tensor) -> tuple[Tensor, Tensor]:
        state, states = torch.zeros_like(x[0]), []
        for i in range(TRIPS):
            state = state * 0.5 + x[i]
            states.append(state)
        return torch.stack([s * 2 for s in states]), states[2] + 1

    assert "for t in range" not in to_text(designed_for_cuda(f, r(TRIPS, 40)).sketch)


def test_what_the_last_trip_leaves_out_is_nobody_elses(designed_for_cuda: Callable[..., Design]) -> None:
    def f(x: Tensor) -> tuple[Tensor, Tensor]:
        state, rows = torch.zeros_like(x[0]), []
        for i in range(TRIPS):
            row = state + x[TRIPS - 1 - i]
            rows.append(row)
            if i < TRIPS - 1:
                state = row * x[TRIPS - 1 - i].exp()
        return torch.stack(rows), state  # of the trip before the last

    x = r(TRIPS, 40)
    assert "for t in range" not in to_text(designed_for_cuda(f, x).sketch)
    one_loop(designed_for_cuda(lambda x: f(x)[0], x))
