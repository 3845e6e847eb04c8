"""Designs checked against torch: by the interpreter, and lowered, built and run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx

from akg_dynamo.agents.coder.module import load, render
from akg_dynamo.agents.designer import cuda, cuda_schedule, cuda_tiles
from akg_dynamo.agents.designer.device import Device
from akg_dynamo.agents.designer.rules import design
from akg_dynamo.agents.lowering.cpp import lower
from akg_dynamo.agents.sketch import interpret, to_text
from akg_dynamo.agents.sketch.ast import DType
from akg_dynamo.agents.sketch.interpret import as_declared
from akg_dynamo.agents.sketch.numerics import numpy_dtype
from akg_dynamo.core.types import Design, Role, Subgraph, Target
from akg_dynamo.fusion.extract import extract
from akg_dynamo.fusion.partition import FusionPlan
from akg_dynamo.fusion.reference import reference
from akg_dynamo.fusion.symbols import SymbolSource
from akg_dynamo.fusion.task import evaluate

sys.path.insert(0, str(Path(__file__).parent))  # `families` is imported by the tests beside it

Tensors = Sequence[torch.Tensor]
HERE = Target()
CUDA = Target("cuda", "triton_cuda", "sm_90", "sm_90")


def to_subgraph(f: Callable[..., object], args: Tensors, mode: str = "fake") -> tuple[Subgraph, list[int], list[int]]:
    """The whole of `f` as one subgraph, which arguments it reads, and the values of its symbols."""
    traced = make_fx(lambda *a: f(*a), tracing_mode=mode)(*args)  # noqa: PLW0108  (f's defaults are not inputs)
    gm = make_fx(torch.func.functionalize(traced, remove="mutations"), tracing_mode=mode)(*args)
    gm.graph.eliminate_dead_code()
    tags = {n: 0 for n in gm.graph.nodes if n.op == "call_function"}
    (cut,) = extract(gm, FusionPlan(tags, {}))
    placeholders = [n for n in gm.graph.nodes if n.op == "placeholder"]
    order = [placeholders.index(n) for n in cut.inputs]
    values = [_symbol_value(s, placeholders, args) for s in cut.symbols]
    return cut.subgraph, order, values


def _symbol_value(source: SymbolSource, placeholders: list[fx.Node], args: Tensors) -> int:
    tensor = args[placeholders.index(source.node)]
    return int(tensor.shape[source.dim]) if source.dim is not None else int(tensor)


def run_interpreted(found: Design, sub: Subgraph, inputs: Tensors, symbols: Sequence[int] = ()) -> list[torch.Tensor]:
    """The design's sketch, interpreted on the inputs' storage."""
    sizes = {s.name: v for s, v in zip(sub.symbols, symbols, strict=True)}
    values = {name: evaluate(dim, sizes) for name, dim in found.symbols}
    buffers: dict[tuple[Role, int], np.ndarray] = {}
    for i, t in enumerate(inputs):
        flat = t.as_strided((t.untyped_storage().size() // t.element_size(),), (1,), 0)
        buffers[Role.INPUT, i] = _to_numpy(flat)[t.storage_offset() :]
    for i, spec in enumerate(sub.output_specs):
        shape = [evaluate(d, sizes) for d in spec.shape]
        stride = [evaluate(d, sizes) for d in spec.stride]
        reach = 1 + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
        buffers[Role.OUTPUT, i] = np.zeros(reach, numpy_dtype(DType.from_torch_name(spec.dtype)))
    arrays = {}
    for binding, decl in zip(found.tensors, found.sketch.tensors, strict=True):
        assert binding.tensor == decl.name
        if binding.role is not Role.SCRATCH:
            offset = evaluate(binding.offset, sizes)
            arrays[decl.name] = as_declared(buffers[binding.role, binding.index], decl, values, offset)
    interpret(found.sketch, arrays, values)
    outputs = []
    for i, spec in enumerate(sub.output_specs):
        flat = _to_torch(buffers[Role.OUTPUT, i], getattr(torch, spec.dtype))
        shape = [evaluate(d, sizes) for d in spec.shape]
        stride = [evaluate(d, sizes) for d in spec.stride]
        outputs.append(flat.as_strided(shape, stride))
    return outputs


def _to_numpy(t: torch.Tensor) -> np.ndarray:
    if t.dtype is torch.bfloat16:
        return t.view(torch.int16).numpy().view(numpy_dtype(DType.BF16))
    return t.numpy()


def _to_torch(a: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    if dtype is torch.bfloat16:
        return torch.from_numpy(a.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(a)


def compare(got: Tensors, want: Tensors, text: str) -> None:
    """Within what the dtype allows, and NaN and Inf in the same places."""
    assert len(got) == len(want)
    for k, (a, b) in enumerate(zip(got, want, strict=True)):
        assert a.dtype is b.dtype
        assert a.shape == b.shape
        tolerance = {torch.float32: 2e-5, torch.float64: 1e-11, torch.float16: 4e-3, torch.bfloat16: 3e-2}
        rtol = tolerance.get(a.dtype, 0.0)
        torch.testing.assert_close(
            a, b, rtol=rtol, atol=rtol, equal_nan=True, msg=lambda m, k=k: f"output {k}: {m}\n{text}"
        )


def check_design(f: Callable[..., object], *args: torch.Tensor, mode: str = "fake", target: Target = HERE) -> Design:
    """Design `f` for `args`, interpret it, compare with torch; gives the design."""
    sub, order, symbols = to_subgraph(f, args, mode)
    found = design(sub, target)
    assert isinstance(found, Design), f"{found}\n{sub.text}"
    text = to_text(found.sketch)
    inputs = [args[i] for i in order]
    want = reference(sub)(*inputs, *symbols)
    compare(run_interpreted(found, sub, inputs, symbols), want, f"{sub.text}\n{text}")
    return found


def check_lowered(f: Callable[..., object], *args: torch.Tensor, build_dir: Path) -> None:
    """Design, lower, build and run `f`, and compare with torch."""
    sub, order, symbols = to_subgraph(f, args)
    found = design(sub, Target())
    assert isinstance(found, Design), found
    module = load(render(sub, found, lower(found.sketch), "k"), build_dir)
    module.build()
    inputs = [args[i] for i in order]
    compare(module.run(*inputs, *symbols), reference(sub)(*inputs, *symbols), to_text(found.sketch))


@pytest.fixture
def lowered(tmp_path: Path) -> Callable[..., None]:
    """`lowered(f, *args)`: design, lower, build, run, compare with torch."""
    return partial(check_lowered, build_dir=tmp_path)


@pytest.fixture
def designed() -> Callable[..., Design]:
    """`designed(f, *args)`: design, interpret, compare with torch."""
    return check_design


@pytest.fixture
def designed_for_cuda() -> Callable[..., Design]:
    """The same for the mapping to GPUs."""
    return partial(check_design, target=CUDA)


@pytest.fixture(name="run_interpreted")
def run_interpreted_fixture() -> Callable[..., list[torch.Tensor]]:
    """`run_interpreted(design, sub, inputs)`."""
    return run_interpreted


@pytest.fixture(name="to_subgraph")
def to_subgraph_fixture() -> Callable[..., tuple[Subgraph, list[int], list[int]]]:
    """`to_subgraph(f, args, mode)`."""
    return to_subgraph


# What a program holds whole, what a loop's trip reads, and whether reductions are split: small enough for small inputs.
LIMITS = {"held": None, "looped": (16, 16, False), "split": (16, 32, True), "split and held": (64, 128, True)}


@pytest.fixture(params=LIMITS)
def limits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mapping to GPUs under every set of limits."""
    chosen = LIMITS[request.param]
    if chosen is not None:
        whole, loop, split = chosen
        monkeypatch.setattr(cuda_tiles, "WHOLE", whole)
        monkeypatch.setattr(cuda_schedule, "WHOLE", whole)
        monkeypatch.setattr(cuda_tiles, "LOOP", loop)
        monkeypatch.setattr(cuda_tiles, "TILE_BYTES", 256)
        if split:
            monkeypatch.setattr(cuda_schedule, "MIN_CHUNK_BYTES", 16)
            slow = Device(2, 1e9, program_bytes_s=1e8, phase_s=1e-7)
            monkeypatch.setattr(cuda, "device", lambda arch: slow)


@pytest.fixture(name="compare")
def compare_fixture() -> Callable[[Tensors, Tensors, str], None]:
    """`compare(got, want, text)`."""
    return compare
