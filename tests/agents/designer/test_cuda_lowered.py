"""The way to the GPU without one: designs lowered to Triton, run in its interpreter, and compiled ahead of time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import triton
from families import BACKWARD, FORWARD, gradients
from torch._subclasses.fake_tensor import FakeTensorMode

from akg_dynamo.agents.coder import by_rules, triton_module, triton_toolchain
from akg_dynamo.agents.designer.rules import design
from akg_dynamo.agents.designer.variants import variants
from akg_dynamo.agents.lowering.triton_interpreter import interpreted
from akg_dynamo.core.types import Design, Subgraph, Target
from akg_dynamo.fusion.reference import reference

H200 = Target("cuda", "triton_cuda", "sm_90", "sm_90")


def _candidate(sub: Subgraph, target: Target = H200) -> Any:
    found = design(sub, target)
    assert isinstance(found, Design)
    return by_rules.write(sub, found, target, "kernel")


@pytest.mark.usefixtures("limits")
@pytest.mark.parametrize(
    "name",
    [
        "softmax", "layer_norm", "column sum", "full sum", "argmax of everything", "argmin of columns", "logsumexp",
        "group_norm", "batch_norm", "a value and its transpose", "cross entropy", "cat", "heads to rows",
        "rows and columns of one read",
    ],
)  # fmt: skip
def test_values(name: str, to_subgraph: Callable[..., Any], compare: Callable[..., None], tmp_path: Path) -> None:
    f, args = FORWARD[name]
    sub, order, symbols = to_subgraph(f, args, "fake")
    candidate = _candidate(sub)
    inputs = [args[i] for i in order]
    with interpreted():
        got = triton_module.load(candidate, tmp_path).run(*inputs)
    compare(got, reference(sub)(*inputs, *symbols), candidate.source)


LARGE: dict[str, tuple[Callable[..., Any], tuple[tuple[int, ...], ...]]] = {
    "pointwise": (lambda x, y: F.gelu(x) * y, ((4096, 4096), (4096, 4096))),
    "transposition": (lambda x, y: x.t() + y, ((4096, 8192), (8192, 4096))),
    "softmax": (lambda x: torch.softmax(x, -1), ((4096, 16384),)),
    "softmax of long rows": (lambda x: torch.softmax(x, -1), ((4096, 50257),)),
    "layer_norm": (lambda x, w, b: F.layer_norm(x, (8192,), w, b), ((4096, 8192), (8192,), (8192,))),
    "layer_norm of long rows": (lambda x: F.layer_norm(x, (65536,)), ((2048, 65536),)),
    "channel softmax": (lambda x: torch.softmax(x, 1), ((16, 64, 256, 256),)),
    "group_norm": (lambda x: F.group_norm(x, 8), ((32, 64, 256, 256),)),
    "batch_norm": (lambda x: F.batch_norm(x, None, None, training=True), ((64, 128, 56, 56),)),
    "column sum": (lambda x: x.sum(0), ((16384, 4096),)),
    "arg-max": (lambda x: x.argmax(), ((1 << 26,),)),
    "arg-max of long rows": (lambda x: x.argmax(1), ((4096, 50257),)),
    "logsumexp of long rows": (lambda x: torch.logsumexp(x, 1), ((4096, 50257),)),
    "log-softmax of long rows": (lambda x: torch.log_softmax(x, 1), ((2048, 128256),)),
    "max pooling": (lambda x: F.max_pool2d(x, 3, 2, 1), ((64, 64, 112, 112),)),
    "average pooling": (lambda x: F.avg_pool2d(F.relu(x), 2), ((64, 256, 56, 56),)),
    "softmax of few long rows": (lambda x: torch.softmax(x, 1), ((256, 262144),)),
}


@pytest.mark.usefixtures("limits")
@pytest.mark.parametrize("name", [*FORWARD, *(f"gradients of {n}" for n in BACKWARD)])
def test_every_variant_compiles(name: str, to_subgraph: Callable[..., Any], tmp_path: Path) -> None:
    """Designs that the interpreter takes may still be no Triton: only its compiler knows."""
    f, args = FORWARD[name] if name in FORWARD else BACKWARD[name.removeprefix("gradients of ")]
    sub = to_subgraph(f if name in FORWARD else gradients(f), args, "fake")[0]
    found = variants(sub, H200)
    assert isinstance(found, list)
    for candidate in {c.digest: c for c in (by_rules.write(sub, d, H200, "kernel") for d in found)}.values():
        triton_toolchain.build(triton_toolchain.load(candidate, tmp_path), H200)
        assert "atomic" not in candidate.source, "the order of a sum would be another one in every run"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", LARGE)
def test_every_variant_of_a_real_size_is_triton(
    name: str, dtype: torch.dtype, to_subgraph: Callable[..., Any], tmp_path: Path
) -> None:
    """As far as the front end goes, which has the types of everything and is quick."""
    f, shapes = LARGE[name]
    with FakeTensorMode():
        sub = to_subgraph(f, [torch.empty(s, dtype=dtype) for s in shapes], "real")[0]
    found = variants(sub, H200)
    assert isinstance(found, list)
    for each in found:
        module = triton_toolchain.load(by_rules.write(sub, each, H200, "kernel"), tmp_path)
        for launch in module.LAUNCHES:
            assert "tt.store" in _front_end(launch)


def _front_end(launch: Any) -> str:
    """The kernel as Triton's first representation."""
    target = triton.backends.compiler.GPUTarget("cuda", 90, 32)
    backend = triton.compiler.make_backend(target)
    source = triton.compiler.ASTSource(launch.function, launch.types, {}, launch.attributes)
    options = backend.parse_options(dict(launch.options))
    context = triton._C.libtriton.ir.context()
    triton._C.libtriton.ir.load_dialects(context)
    backend.load_dialects(context)
    functions = backend.get_codegen_implementation(options)
    return str(source.make_ir(target, options, functions, backend.get_module_map(), context))


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", LARGE)
def test_nothing_spills(
    name: str, dtype: torch.dtype, arch: str, to_subgraph: Callable[..., Any], tmp_path: Path
) -> None:
    f, shapes = LARGE[name]
    with FakeTensorMode():
        sub = to_subgraph(f, [torch.empty(s, dtype=dtype) for s in shapes], "real")[0]
    target = Target("cuda", "triton_cuda", arch, arch)
    module = triton_toolchain.load(_candidate(sub, target), tmp_path)
    triton_toolchain.build(module, target)
    for kernel in triton_toolchain.resources(module, target):
        assert kernel.spilled_bytes == 0, kernel
        assert kernel.registers * 32 * kernel.num_warps <= 65536, kernel
