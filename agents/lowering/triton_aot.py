"""Ahead-of-time compilation of lowered kernels, without a GPU: cubins, and what they take of a multiprocessor.

for phase in kernel.phases:
    cubin = compile_phase(getattr(module, phase.name), phase, dtypes, arch=90)
    cubin.registers, cubin.local_bytes, cubin.shared_bytes
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from akg_dynamo.agents.lowering.triton_cuda import Phase
from akg_dynamo.agents.sketch.ast import DType, Sketch
from akg_dynamo.core.errors import ToolchainError

_POINTERS = {
    DType.F64: "*fp64", DType.F32: "*fp32", DType.F16: "*fp16", DType.BF16: "*bf16", DType.I64: "*i64",
    DType.I32: "*i32", DType.I16: "*i16", DType.I8: "*i8", DType.U8: "*u8", DType.BOOL: "*i1",
}  # fmt: skip
_USAGE = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")


@dataclass(frozen=True)
class Cubin:
    """A compiled phase. registers: of a thread. local_bytes: of a thread's memory (spills, and arrays it indexes).

    shared_bytes: of a program's shared memory.
    """

    code: bytes
    ptx: str
    registers: int
    local_bytes: int
    shared_bytes: int


def dtypes_of(sketch: Sketch) -> dict[str, DType]:
    """The element type of each tensor."""
    return {t.name: t.dtype for t in sketch.tensors}


def compile_phase(function: Any, phase: Phase, dtypes: Mapping[str, DType], arch: int) -> Cubin:
    """Compiles one phase for an NVIDIA architecture (80, 90…), for pointers aligned to 16 bytes.

    function: the module's @triton.jit function for it. ToolchainError when Triton or ptxas refuses it.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.errors import TritonError

    types = [*(_POINTERS[dtypes[t]] for t in phase.tensors), *("i64" for _ in phase.symbols)]
    signature = dict(zip(function.arg_names, types, strict=True))
    aligned = {(i,): [["tt.divisibility", 16]] for i in range(len(phase.tensors))}
    source = ASTSource(function, signature, attrs=aligned)
    options = {"num_warps": phase.num_warps, "num_stages": phase.num_stages, "debug": phase.asserts}
    options["enable_fp_fusion"] = True  # as it is by default: Triton 3.9 warns when nobody says so
    try:
        compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    except (TritonError, RuntimeError) as e:  # MLIR's passes fail with RuntimeError
        raise ToolchainError(f"Triton does not compile {phase.name} for sm_{arch}: {e}") from e
    code: bytes = compiled.asm["cubin"]
    registers, stack, _, local = resource_usage(code)
    return Cubin(code, str(compiled.asm["ptx"]), registers, stack + local, int(compiled.metadata.shared))


def resource_usage(cubin: bytes) -> tuple[int, int, int, int]:
    """Registers, and bytes of stack, static shared and local memory, of a cubin's one function."""
    import triton

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = _USAGE.search(done.stdout)
    if found is None:
        raise ToolchainError(f"cuobjdump says nothing of a kernel's resources: {done.stdout}{done.stderr}")
    registers, stack, shared, local = (int(n) for n in found.groups())
    return registers, stack, shared, local
