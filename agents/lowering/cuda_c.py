"""A sketch as CUDA C: one kernel function per phase, self-contained, compiled by nvcc.

    kernel = lower(sketch, sizes={"N": 4096})     # symbols without a size stay run-time parameters
    kernel.source                                 # the helpers that are used, the __global__ functions
    kernel.phases                                 # what to launch, in order, on one stream

The same phases as `triton_cuda`, each a grid of blocks: a nest of parallel loops is the block index, every other loop a
`for`. A block's threads share its tiles: lane l along an axis belongs to a fixed thread (`cuda_c_layout`). Elementwise
work stays in registers; what passes between threads (reductions, scans, products, broadcasts of what was computed) goes
through warp shuffles and shared memory.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from akg_dynamo.agents.lowering.cpp_ops import STORED
from akg_dynamo.agents.lowering.cuda_c_emit import PhaseWriter, written
from akg_dynamo.agents.lowering.cuda_c_layout import WARP
from akg_dynamo.agents.lowering.index import c_name
from akg_dynamo.agents.lowering.ir import Program, build
from akg_dynamo.agents.lowering.prelude import CUDA, prelude
from akg_dynamo.agents.lowering.triton_phases import PhasePlan, launch_options, plan
from akg_dynamo.agents.sketch import ast as sk
from akg_dynamo.agents.sketch.overwrite import overwritable
from akg_dynamo.agents.sketch.substitute import with_sizes
from akg_dynamo.core.errors import LoweringError

_SHARED_BYTES = 227 << 10
"""What a block can have, on the largest devices."""


@dataclass(frozen=True)
class Phase:
    """One launch.

    name: of the function. grid: Python expressions over the sketch's remaining symbols; nothing is to be launched when
    one is 0. threads, shared_bytes: of a block; shared memory is dynamic. tensors, symbols: its parameters in order:
    pointers, then 64-bit integers.
    """

    name: str
    grid: tuple[str, ...]
    threads: int
    shared_bytes: int
    tensors: tuple[str, ...]
    symbols: tuple[str, ...]


@dataclass(frozen=True)
class CudaKernel:
    """`source`: the file. `phases`: its launches, in order."""

    source: str
    phases: tuple[Phase, ...]


def lower(sketch: sk.Sketch, *, sizes: Mapping[str, int] | None = None) -> CudaKernel:
    """The CUDA C of a sketch. LoweringError for what the language allows and a block of threads cannot do.

    sizes: the values of symbols that are known. The kernel is for these sizes only, and they are no parameters.
    """
    program = build(with_sizes(sketch, sizes or {}), keep_dots=True)
    plans = plan(program)
    functions: list[str] = []
    phases: list[Phase] = []
    for n, phase_plan in enumerate(plans):
        name = c_name(sketch.name if len(plans) == 1 else f"{sketch.name}_{n}")
        phase, text = _phase(program, phase_plan, f"{name}_kernel")
        phases.append(phase)
        functions.append(text)
    body = "\n".join(functions)
    about = f"// {sketch.name}: " + ", ".join(f"{t.name} {t.kind} {t.dtype.value}" for t in sketch.tensors)
    return CudaKernel(f"{about}\n{prelude(body, CUDA)}\n{body}", tuple(phases))


def _phase(program: Program, phase_plan: PhasePlan, name: str) -> tuple[Phase, str]:
    sketch = program.sketch
    threads = WARP * launch_options(sketch, phase_plan)["num_warps"]
    writer = written(program, phase_plan, threads)
    if writer.tiles.shared_bytes > _SHARED_BYTES:
        needed = writer.tiles.shared_bytes >> 10
        raise LoweringError(f"{sketch.name}: the tiles of {_where(phase_plan)} need {needed} KiB of shared memory")
    words = set(re.findall(r"\w+", "\n".join(writer.lines)))
    tensors = [t for t in sketch.tensors if writer.tensors[t.name] in words]
    symbols = [s for s in sketch.symbols if writer.symbols[s] in words]
    parameters = [_parameter(t, phase_plan, writer, sketch) for t in tensors]
    parameters += [f"int64_t {writer.symbols[s]}" for s in symbols]
    head = f'extern "C" __global__ void __launch_bounds__({threads})'
    text = "\n".join([f"{head} {name}({', '.join(parameters)}) {{", *writer.lines, "}", ""])
    shared_bytes = writer.tiles.shared_bytes
    return Phase(name, writer.grid, threads, shared_bytes, tuple(t.name for t in tensors), tuple(symbols)), text


def _parameter(tensor: sk.TensorDecl, phase_plan: PhasePlan, writer: PhaseWriter, sketch: sk.Sketch) -> str:
    """A pointer: to constant memory where it may be taken for that."""
    shared = {name for pair in overwritable(sketch) for name in pair}
    const = "const " if tensor.name not in phase_plan.stored else ""
    alone = tensor.name not in shared and tensor.name not in phase_plan.hazards
    return f"{const}{STORED[tensor.dtype]}* {'__restrict__ ' if alone else ''}{writer.tensors[tensor.name]}"


def _where(phase_plan: PhasePlan) -> str:
    lines = [unit.source.line for unit in phase_plan.units if hasattr(unit, "source")]
    return f"the loop in line {lines[0]}" if lines else "the straight-line part"
