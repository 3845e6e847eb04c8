"""A sketch as Triton for NVIDIA GPUs: one jit function per phase, self-contained.

    kernel = lower(sketch, sizes={"N": 4096})     # symbols without a size stay run-time parameters
    kernel.source                                 # imports, the helpers that are used, the @triton.jit functions
    kernel.phases                                 # what to launch, in order, on one stream

It dispatches on the language's constructs only. Consecutive top-level loops are phases. A nest of parallel loops is one
program id, the innermost moving fastest; a parallel tiled loop gives each program a tile; every other loop is a `for`.

Sizes that are known are baked in: masks that a multiple makes needless fall away, loops that run once vanish, offsets
have 32 bits where that suffices. A run-time symbol is an int64 parameter, so what is computed from it cannot overflow.

Loads are evict_first where a phase is marked "once", and only those that read each element once: measured on an H200
that is 10% faster for a reduction of a few times the L2 cache, which need not wait until what others left there is
written back, and 3 to 5% slower for most other kernels. Pipelining made none that moves bytes faster.

Tensors of bool are pointers to int1 (what Triton makes of torch's bool), stored as bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from akg_dynamo.agents.lowering.ir import Program, build
from akg_dynamo.agents.lowering.triton_emit import PhaseEmitter
from akg_dynamo.agents.lowering.triton_helpers import helpers
from akg_dynamo.agents.lowering.triton_names import python_name
from akg_dynamo.agents.lowering.triton_phases import PhasePlan, launch_options, plan
from akg_dynamo.agents.sketch import ast as sk
from akg_dynamo.agents.sketch.substitute import with_sizes


@dataclass(frozen=True)
class Phase:
    """One launch.

    name: of the jit function. grid: Python expressions over the sketch's remaining symbols; nothing is to be launched
    when one is 0. tensors, symbols: its parameters in order, pointers first. asserts: it must be compiled with
    ``debug=True``, or an index out of range goes unnoticed.
    """

    name: str
    grid: tuple[str, ...]
    tensors: tuple[str, ...]
    symbols: tuple[str, ...]
    num_warps: int
    num_stages: int
    asserts: bool = False


@dataclass(frozen=True)
class TritonKernel:
    """`source`: the file. `phases`: its launches, in order."""

    source: str
    phases: tuple[Phase, ...]


def lower(sketch: sk.Sketch, *, sizes: Mapping[str, int] | None = None, exact: bool = True) -> TritonKernel:
    """The Triton of a sketch. LoweringError for what the language allows and Triton cannot express.

    sizes: the values of symbols that are known. The kernel is for these sizes only, and they are no parameters.
    exact: without it, the last bit of an f32 result may be off where that is faster (see `triton_ops.inverse`).
    """
    program = build(with_sizes(sketch, sizes or {}), keep_dots=True)
    plans = plan(program)
    functions: list[str] = []
    phases: list[Phase] = []
    for n, phase_plan in enumerate(plans):
        name = python_name(sketch.name if len(plans) == 1 else f"{sketch.name}_{n}")
        phase, text = _phase(program, phase_plan, name, exact)
        phases.append(phase)
        functions.append(text)
    body = "\n\n".join(functions)
    pieces = [*helpers(body), body]
    imports = ["import triton", "import triton.language as tl"]
    if any("libdevice." in piece for piece in pieces):
        imports.append("from triton.language.extra.cuda import libdevice")
    about = f"# {sketch.name}: " + ", ".join(f"{t.name} {t.kind} {t.dtype.value}" for t in sketch.tensors)
    return TritonKernel("\n".join([about, *imports, "\n", "\n\n".join(pieces)]), tuple(phases))


def _phase(program: Program, phase_plan: PhasePlan, name: str, exact: bool) -> tuple[Phase, str]:
    options = launch_options(program.sketch, phase_plan)
    emitter = PhaseEmitter(program, phase_plan, **options, exact=exact)
    emitter.run()
    body = emitter.text()
    words = set(re.findall(r"\w+", body))
    sketch = program.sketch
    tensors = tuple(t.name for t in sketch.tensors if f"{t.name}_ptr" in words)
    symbols = tuple(s for s in sketch.symbols if python_name(s) in words)
    parameters = [f"{t}_ptr" for t in tensors] + [f"{python_name(s)}: tl.int64" for s in symbols]
    phase = Phase(
        name,
        emitter.grid,
        tensors,
        symbols,
        options["num_warps"],
        options["num_stages"],
        asserts="tl.device_assert(" in body,
    )
    return phase, f"@triton.jit\ndef {name}({', '.join(parameters)}):\n{body}\n"
