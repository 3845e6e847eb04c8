"""Runs lowered sketches in Triton's interpreter, for the tests beside it."""

from __future__ import annotations

import importlib.util
import itertools
import re
import subprocess
import tempfile
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import triton
from lowered import same_strides
from random_sketch import assert_agree
from torch_oracle import torch_dtype
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from akg_dynamo.agents.lowering.triton_cuda import Phase, TritonKernel, lower
from akg_dynamo.agents.lowering.triton_interpreter import interpreted
from akg_dynamo.agents.sketch import interpret, to_text
from akg_dynamo.agents.sketch.ast import DType, Sketch, TensorDecl
from akg_dynamo.agents.sketch.intexpr import evaluate
from akg_dynamo.agents.sketch.numerics import numpy_dtype

Array = np.ndarray[Any, np.dtype[Any]]
_count = itertools.count()


@cache
def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="akg-triton-tests-"))


def load(kernel: TritonKernel) -> Any:
    """The kernel's module. Inside `interpreted()` its functions are interpreted ones."""
    name = f"triton_kernel_{next(_count)}"
    path = _folder() / f"{name}.py"
    path.write_text(kernel.source)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def storage(array: Array) -> torch.Tensor:
    """The elements from an array's first to its last in memory, as one flat tensor that shares them."""
    if array.size == 0:
        return torch.empty(0, dtype=torch_dtype_of(array))
    extent = sum((n - 1) * s // array.itemsize for n, s in zip(array.shape, array.strides, strict=True)) + 1
    flat = np.lib.stride_tricks.as_strided(array, (extent,), (array.itemsize,))
    if array.dtype == numpy_dtype(DType.BF16):
        return torch.from_numpy(flat.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(flat)


def torch_dtype_of(array: Array) -> torch.dtype:
    """torch's name for an array's dtype."""
    return next(torch_dtype(d) for d in DType if numpy_dtype(d) == array.dtype)


def execute(
    sketch: Sketch, tensors: dict[str, Array], symbols: dict[str, int], sizes: dict[str, int], *, gpu: bool = False
) -> TritonKernel:
    """Lowers a sketch with `sizes` baked in and runs it on arrays, interpreted or on a GPU; "tmp" is made here."""
    kernel = lower(sketch, sizes=sizes)
    host = {t.name: storage(tensors[t.name]) if t.name in tensors else _scratch(t, symbols) for t in sketch.tensors}
    memory = {name: t.cuda() for name, t in host.items()} if gpu else host
    with nullcontext() if gpu else interpreted():
        module = load(kernel)
        for phase in kernel.phases:
            grid = tuple(eval(text, {"min": min, "max": max}, dict(symbols)) for text in phase.grid)
            if min(grid) > 0:
                arguments = [*(memory[t] for t in phase.tensors), *(symbols[s] for s in phase.symbols)]
                getattr(module, phase.name)[grid](*arguments, **(_options(phase) if gpu else {}))
    if gpu:
        for name, tensor in host.items():
            tensor.copy_(memory[name])
    return kernel


def _options(phase: Phase) -> dict[str, int | bool]:
    """As kernels are compiled for use: denormals are kept, as torch keeps them."""
    launch: dict[str, int | bool] = {"num_warps": phase.num_warps, "num_stages": phase.num_stages}
    return launch | {"enable_fp_fusion": True, "enable_reflect_ftz": False, "debug": phase.asserts}


def _scratch(decl: TensorDecl, symbols: dict[str, int]) -> torch.Tensor:
    size = int(np.prod([evaluate(d, symbols) for d in decl.shape]))
    return torch.zeros(size, dtype=torch_dtype(decl.dtype))


def compare(
    sketch: Sketch,
    tensors: dict[str, Array],
    symbols: dict[str, int],
    *,
    static: bool | None = None,
    gpu: bool = False,
) -> None:
    """Runs a sketch in the interpreter and as a kernel, and asserts that the outputs agree.

    static: with all of its sizes baked in, with none; None: both.
    """
    want = {n: same_strides(t) for n, t in tensors.items()}
    with np.errstate(all="ignore"):
        interpret(sketch, want, symbols)
    for sizes in {None: [symbols, {}], True: [symbols], False: [{}]}[static]:
        got = {n: same_strides(t) for n, t in tensors.items()}
        try:
            execute(sketch, got, symbols, sizes, gpu=gpu)
            assert_agree(sketch, got, want)
        except Exception as e:
            raise AssertionError(f"{to_text(sketch)}\n{symbols}\n{lower(sketch, sizes=sizes).source}") from e


_TYPES = {
    DType.F64: "*fp64", DType.F32: "*fp32", DType.F16: "*fp16", DType.BF16: "*bf16", DType.I64: "*i64",
    DType.I32: "*i32", DType.I16: "*i16", DType.I8: "*i8", DType.U8: "*u8", DType.BOOL: "*i1",
}  # fmt: skip


@dataclass(frozen=True)
class Usage:
    """What a compiled phase takes: registers and bytes of local memory of a thread, shared memory of a program."""

    registers: int
    local_bytes: int
    shared_bytes: int


def compile_phase(function: Any, phase: Phase, sketch: Sketch, arch: int) -> Usage:
    """Compiles a phase to machine code for sm_<arch>; no GPU is needed."""
    dtypes = {t.name: t.dtype for t in sketch.tensors}
    types = [*(_TYPES[dtypes[t]] for t in phase.tensors), *("i64" for _ in phase.symbols)]
    signature = dict(zip(function.arg_names, types, strict=True))
    aligned = {(i,): [["tt.divisibility", 16]] for i in range(len(phase.tensors))}
    source = ASTSource(function, signature, attrs=aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=_options(phase))
    path = _folder() / f"{phase.name}_{next(_count)}.cubin"
    path.write_bytes(compiled.asm["cubin"])
    command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", done.stdout)
    assert found is not None, done.stdout
    registers, stack, local = (int(n) for n in found.groups())
    return Usage(registers, stack + local, compiled.metadata.shared)
