"""Compiles lowered sketches with nvcc, and runs their very source on the CPU, for the tests beside it."""

from __future__ import annotations

import ctypes
import hashlib
import re
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from lowered import same_strides
from random_sketch import assert_agree

from akg_dynamo.agents.coder import toolchain
from akg_dynamo.agents.lowering.cuda_c import CudaKernel, lower
from akg_dynamo.agents.sketch import interpret, to_text
from akg_dynamo.agents.sketch.ast import Sketch
from akg_dynamo.agents.sketch.intexpr import evaluate
from akg_dynamo.agents.sketch.numerics import numpy_dtype

Array = np.ndarray[Any, np.dtype[Any]]
SHIM = Path(__file__).parent / "cuda_shim.h"


@cache
def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="akg-cuda-tests-"))


def on_cpu(kernel: CudaKernel) -> Any:
    """The kernel as a library for the CPU: `run_<phase>(blocks, descending, parameters…)` for each phase."""
    launchers = []
    for phase in kernel.phases:
        found = re.search(rf"{phase.name}\((.*)\) {{", kernel.source)
        assert found is not None
        names = [p.split()[-1] for p in found[1].split(", ")] if found[1] else []
        parameters = ", ".join(["int64_t blocks_", "int descending_", *([found[1]] if found[1] else [])])
        call = f"shim::launch([=] {{ {phase.name}({', '.join(names)}); }}, blocks_, {phase.threads}, "
        call += f"{phase.shared_bytes}, descending_)"
        launchers.append(f'extern "C" int run_{phase.name}({parameters}) {{ return {call}; }}')
    text = kernel.source + "\n".join(launchers) + "\n"
    path = _folder() / hashlib.sha256(text.encode()).hexdigest()[:24]
    if not path.with_suffix(".so").exists():
        path.with_suffix(".cpp").write_text(text)
        flags = ["-std=c++20", "-O1", "-shared", "-fPIC", "-ffp-contract=off", "-fwrapv", "-w", "-include", str(SHIM)]
        command = [toolchain.compiler(), *flags, str(path.with_suffix(".cpp")), "-o", str(path.with_suffix(".so"))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{done.stderr[:3000]}\n{kernel.source}"
    return ctypes.CDLL(str(path.with_suffix(".so")))


def execute(
    sketch: Sketch, tensors: dict[str, Array], symbols: dict[str, int], sizes: dict[str, int], *, descending: bool
) -> bool:
    """Lowers a sketch with `sizes` baked in and runs it on arrays; "tmp" is made here. False: the kernel trapped."""
    return execute_kernel(lower(sketch, sizes=sizes), sketch, tensors, symbols, descending=descending)


def execute_kernel(
    kernel: CudaKernel, sketch: Sketch, tensors: dict[str, Array], symbols: dict[str, int], *, descending: bool
) -> bool:
    """Runs what a sketch was lowered to. descending: the order of blocks and threads. False: the kernel trapped."""
    library = on_cpu(kernel)
    memory = dict(tensors)
    for t in sketch.tensors:
        if t.name not in memory:
            memory[t.name] = np.zeros([evaluate(d, symbols) for d in t.shape], numpy_dtype(t.dtype))
    for phase in kernel.phases:
        blocks = 1
        for text in phase.grid:
            blocks *= eval(text, {"min": min, "max": max}, dict(symbols))
        if blocks <= 0:
            continue
        arguments: list[Any] = [ctypes.c_void_p(memory[t].ctypes.data) for t in phase.tensors]
        arguments += [ctypes.c_int64(symbols[s]) for s in phase.symbols]
        if getattr(library, f"run_{phase.name}")(ctypes.c_int64(blocks), int(descending), *arguments):
            return False
    return True


def compare(sketch: Sketch, tensors: dict[str, Array], symbols: dict[str, int], *, static: bool | None = None) -> None:
    """Runs a sketch in the interpreter and as a kernel, and asserts that the outputs agree.

    static: with all of its sizes baked in, with none; None: both. The threads run in a different order each time.
    """
    want = {n: same_strides(t) for n, t in tensors.items()}
    with np.errstate(all="ignore"):
        interpret(sketch, want, symbols)
    for sizes in {None: [symbols, {}], True: [symbols], False: [{}]}[static]:
        for descending in (False, True):
            got = {n: same_strides(t) for n, t in tensors.items()}
            try:
                assert execute(sketch, got, symbols, sizes, descending=descending)
                assert_agree(sketch, got, want)
            except Exception as e:
                raise AssertionError(f"{to_text(sketch)}\n{symbols}\n{lower(sketch, sizes=sizes).source}") from e


@dataclass(frozen=True)
class Usage:
    """What a compiled phase takes: registers and bytes of local memory of a thread."""

    registers: int
    local_bytes: int


def compiled(kernel: CudaKernel, arch: int) -> dict[str, Usage]:
    """Compiles a kernel to machine code for sm_<arch>; no GPU is needed."""
    path = _folder() / f"{hashlib.sha256(kernel.source.encode()).hexdigest()[:24]}_{arch}"
    path.with_suffix(".cu").write_text(kernel.source)
    command = ["nvcc", "-cubin", f"-arch=sm_{arch}", "-Xptxas", "-v", str(path.with_suffix(".cu"))]
    done = subprocess.run([*command, "-o", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stderr[:3000]}\n{kernel.source}"
    usage = {}
    for piece in done.stderr.split("Compiling entry function '")[1:]:
        registers, stack = re.search(r"Used (\d+) registers", piece), re.search(r"(\d+) bytes stack frame", piece)
        assert registers is not None
        assert stack is not None
        usage[piece.split("'")[0]] = Usage(int(registers[1]), int(stack[1]))
    return usage


__all__ = ["compare", "compiled", "execute", "execute_kernel", "on_cpu"]
