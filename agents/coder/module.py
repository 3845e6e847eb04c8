"""Kernels as Python modules: the C++ source, how to build it, and a launcher that does little per call.

The launcher calls the object through a function of Python's that the object itself makes (`python_entry.cpp.j2`): it
takes the tensors as they are, an eighth of what ctypes and `Tensor.data_ptr` cost. Where torch lacks what it needs,
ctypes does it.
"""

from __future__ import annotations

import types
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import jinja2

from akg_dynamo.agents.coder.describe import checks, describe, fits, in_place_pairs, is_static, tuple_text
from akg_dynamo.agents.lowering.cpp import CppKernel
from akg_dynamo.agents.lowering.cpp_ops import STORED
from akg_dynamo.agents.sketch.overwrite import overwritable
from akg_dynamo.agents.sketch.printer import to_text
from akg_dynamo.core.types import Candidate, Design, Role, Subgraph, TensorSpec


@dataclass
class _Launch:
    """The call of the kernel: tensors, then integers (its sizes, then the elements to skip of tensors bound inside)."""

    tensors: list[str] = field(default_factory=list)
    integers: list[str] = field(default_factory=list)
    n_sizes: int = 0
    in_cpp: list[str] = field(default_factory=list)
    in_ctypes: list[str] = field(default_factory=list)
    scratch: list[str] = field(default_factory=list)

    @property
    def usage(self) -> str:
        """What to pass, for the error of a call that passes something else."""
        text = f"takes {len(self.tensors)} tensor{'s' * (len(self.tensors) != 1)}"
        return f"{text}, then {len(self.integers)} integer{'s' * (len(self.integers) != 1)}" if self.integers else text

    @property
    def work(self) -> str:
        """About how many elements a launch works on, in C++."""
        return " * ".join(f"i[{k}]" for k in range(self.n_sizes)) or "1"


def render(sub: Subgraph, design: Design, kernel: CppKernel, name: str, *, fp_fusion: bool = True) -> Candidate:
    """The module of one kernel, for one subgraph's sizes (or symbols).

    fp_fusion: whether a * b + c may be rounded once.
    """
    from akg_dynamo.agents.coder.toolchain import FLAGS, UNFUSED

    inputs = [f"x{i}" for i in range(len(sub.inputs))]
    outputs = [f"y{i}" for i in range(len(sub.outputs))]
    constants: list[str] = []
    launch = _launch(design, inputs, outputs)
    entry = _template("python_entry.cpp.j2").render(
        entry=kernel.entry,
        reports=kernel.reports,
        tensors=len(launch.tensors),
        integers=len(launch.integers),
        arguments=launch.in_cpp,
        work=launch.work,
        usage=f"{kernel.entry} {launch.usage}",
    )
    cpp_source = kernel.source + entry
    source = _template("module.py.j2").render(
        name=name,
        cpp_source=cpp_source,
        entry=kernel.entry,
        reports=kernel.reports,
        flags=list(FLAGS if fp_fusion else (*FLAGS, UNFUSED)),
        inputs=[describe(n, s) for n, s in zip(inputs, sub.inputs, strict=True)],
        outputs=[describe(n, s) for n, s in zip(outputs, sub.output_specs, strict=True)],
        parameters=", ".join([*inputs, *(s.name for s in sub.symbols)]),
        launch=launch,
        allocations=[_allocation(y, spec, constants) for y, spec in zip(outputs, sub.output_specs, strict=True)],
        constants=constants,
        results=outputs,
        in_place=in_place_pairs(sub, design, overwritable(design.sketch, lane_by_lane=True)),
        fits=fits(inputs, sub.inputs, "is_cpu"),
        checks=checks(inputs, sub.inputs),
    )
    return Candidate(name, source, "cpp", to_text(design.sketch), cpp_source)


def load(candidate: Candidate, build_dir: Path) -> types.ModuleType:
    """The candidate's module, executed. Nothing is built until `build()` or the first launch."""
    module = types.ModuleType(f"akg_kernel_{candidate.digest[:16]}")
    module.__dict__["BUILD_DIR"] = str(build_dir)
    exec(compile(candidate.source, f"<kernel {candidate.name}>", "exec"), module.__dict__)
    return module


def object_path(candidate: Candidate, build_dir: Path) -> Path:
    """What `build()` makes; equal for candidates that share their C++ and how it is compiled."""
    return Path(load(candidate, build_dir).object_path())


@cache
def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    return environment.from_string((Path(__file__).parent / name).read_text(encoding="utf-8"))


def _launch(design: Design, inputs: list[str], outputs: list[str]) -> _Launch:
    launch = _Launch()
    sizes = dict(design.symbols)
    launch.integers = [str(sizes[s]) for s in design.sketch.symbols]
    launch.n_sizes = len(launch.integers)
    bindings = {b.tensor: b for b in design.tensors}
    for k, decl in enumerate(design.sketch.tensors):
        binding = bindings[decl.name]
        in_cpp, in_ctypes = f"({STORED[decl.dtype]}*)p[{k}]", f"p{k}.data_ptr()"
        if binding.role is Role.SCRATCH:
            tensor = f"scratch{len(launch.scratch)}"
            launch.scratch.append(f"{tensor} = _empty(({binding.size},), (1,), torch.{decl.dtype.torch_name})")
        else:
            tensor = (inputs if binding.role is Role.INPUT else outputs)[binding.index]
            if binding.offset != 0:
                in_cpp += f" + i[{len(launch.integers)}]"
                in_ctypes += f" + {decl.dtype.size_bytes} * i{len(launch.integers)}"
                launch.integers.append(str(binding.offset))
        launch.tensors.append(tensor)
        launch.in_cpp.append(in_cpp)
        launch.in_ctypes.append(in_ctypes)
    launch.in_cpp += [f"i[{k}]" for k in range(launch.n_sizes)]
    launch.in_ctypes += [f"i{k}" for k in range(launch.n_sizes)]
    return launch


def _allocation(name: str, spec: TensorSpec, constants: list[str]) -> str:
    shape, stride = tuple_text(spec.shape), tuple_text(spec.stride)
    if is_static(*spec.shape, *spec.stride):
        constants.append(f"_{name.upper()} = ({shape}, {stride}, torch.{spec.dtype})")
        return f"{name} = _empty(*_{name.upper()})"
    return f"{name} = _empty({shape}, {stride}, torch.{spec.dtype})"
