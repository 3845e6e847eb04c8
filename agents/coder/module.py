"""Kernels as Python modules: the C++ source, how to build it, and a launcher that does little per call."""

from __future__ import annotations

import hashlib
import re
import types
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jinja2

from akg_dynamo.agents.lowering.cpp import CppKernel
from akg_dynamo.agents.sketch.ast import DType
from akg_dynamo.agents.sketch.printer import to_text
from akg_dynamo.core.types import Candidate, Design, Dim, Role, Subgraph, TensorBinding, TensorSpec


@dataclass(frozen=True)
class _Described:
    name: str
    dtype: str
    shape_text: str
    stride_text: str


def render(sub: Subgraph, design: Design, kernel: CppKernel, name: str) -> Candidate:
    """The module of one kernel, for one subgraph's sizes (or symbols)."""
    from akg_dynamo.agents.coder.toolchain import FLAGS

    inputs = [f"x{i}" for i in range(len(sub.inputs))]
    outputs = [f"y{i}" for i in range(len(sub.outputs))]
    symbols = [s.name for s in sub.symbols]
    bindings = {b.tensor: b for b in design.tensors}
    constants: list[str] = []
    allocations = [_allocation(y, spec, constants) for y, spec in zip(outputs, sub.output_specs, strict=True)]
    pointers: list[str] = []
    for decl in design.sketch.tensors:
        binding = bindings[decl.name]
        if binding.role is Role.SCRATCH:
            scratch = f"scratch{len(allocations) - len(outputs)}"
            allocations.append(f"{scratch} = _empty(({binding.size},), (1,), torch.{decl.dtype.torch_name})")
            pointers.append(f"{scratch}.data_ptr()")
        else:
            pointers.append(_pointer(binding, inputs, outputs, decl.dtype))
    values = dict(design.symbols)
    sizes = [_constant(f"_N{i}", values[s], constants) for i, s in enumerate(design.sketch.symbols)]
    source = _template().render(
        name=name,
        cpp_source=kernel.source,
        entry=kernel.entry,
        flags=list(FLAGS),
        inputs=[_described(n, s) for n, s in zip(inputs, sub.inputs, strict=True)],
        outputs=[_described(n, s) for n, s in zip(outputs, sub.output_specs, strict=True)],
        parameters=", ".join([*inputs, *symbols]),
        pointers=pointers,
        sizes=sizes,
        constants=constants,
        allocations=allocations,
        results=outputs,
        fits=_fits(inputs, sub.inputs, constants),
        checks=[
            f"_check({i}, {n}, torch.{s.dtype}, {_tuple(s.shape)}, {_tuple(s.stride)})"
            for i, (n, s) in enumerate(zip(inputs, sub.inputs, strict=True))
        ],
    )
    return Candidate(name, source, "cpp", to_text(design.sketch), kernel.source)


def load(candidate: Candidate, build_dir: Path) -> types.ModuleType:
    """The candidate's module, executed. Nothing is built until `build()` or the first launch."""
    module = types.ModuleType(f"akg_kernel_{candidate.digest[:16]}")
    module.__dict__["BUILD_DIR"] = str(build_dir)
    exec(compile(candidate.source, f"<kernel {candidate.name}>", "exec"), module.__dict__)
    return module


def object_path(candidate: Candidate, build_dir: Path) -> Path:
    """What `build()` makes; equal for candidates that share their C++."""
    from akg_dynamo.agents.coder.toolchain import FLAGS, isa

    made_from = hashlib.sha256("\0".join(["\n" + candidate.device_source, *FLAGS, isa()]).encode()).hexdigest()
    return build_dir / f"{made_from[:32]}.so"


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    return environment.from_string((Path(__file__).parent / "module.py.j2").read_text(encoding="utf-8"))


def _tuple(dims: tuple[Dim, ...]) -> str:
    return f"({', '.join(map(str, dims))}{',' if len(dims) == 1 else ''})"


def _described(name: str, spec: TensorSpec) -> _Described:
    shape = f"[{', '.join(map(str, spec.shape))}]"
    contiguous = _contiguous(spec)
    return _Described(name, spec.dtype, shape, "" if contiguous else f"[{', '.join(map(str, spec.stride))}]")


def _fits(names: list[str], specs: tuple[TensorSpec, ...], constants: list[str]) -> list[str]:
    """The quick checks, one line per input: they may refuse what `_check` accepts, never the other way round."""
    lines: list[str] = []
    for i, (name, spec) in enumerate(zip(names, specs, strict=True)):
        shape, stride = _tuple(spec.shape), _tuple(spec.stride)
        if _is_static(*spec.shape, *spec.stride):
            constants.append(f"_X{i} = ({shape}, {stride}, torch.{spec.dtype})")
            shape, stride = f"_X{i}[0]", f"_X{i}[1]"
        laid_out = f"{name}.is_contiguous()" if _contiguous(spec) else f"{name}.stride() == {stride}"
        joint = "and " if lines else ""
        lines.append(
            f"{joint}{name}.is_cpu and {name}.dtype is torch.{spec.dtype} and {name}.shape == {shape} and {laid_out}"
        )
    return lines or ["True"]


def _contiguous(spec: TensorSpec) -> bool:
    """Whether its strides are certainly those of a contiguous tensor."""
    step: Dim = 1
    for size, stride in zip(reversed(spec.shape), reversed(spec.stride), strict=True):
        if stride != step:
            return False
        step = step * size if isinstance(step, int) and isinstance(size, int) else -1
    return True


def _is_static(*dims: Dim) -> bool:
    return all(isinstance(d, int) for d in dims)


def _allocation(name: str, spec: TensorSpec, constants: list[str]) -> str:
    shape, stride = _tuple(spec.shape), _tuple(spec.stride)
    if _is_static(*spec.shape, *spec.stride):
        constants.append(f"_{name.upper()} = ({shape}, {stride}, torch.{spec.dtype})")
        return f"{name} = _empty(*_{name.upper()})"
    return f"{name} = _empty({shape}, {stride}, torch.{spec.dtype})"


def _pointer(binding: TensorBinding, inputs: list[str], outputs: list[str], dtype: DType) -> str:
    tensor = (inputs if binding.role is Role.INPUT else outputs)[binding.index]
    text = f"{tensor}.data_ptr()"
    if binding.offset == 0:
        return text
    if isinstance(binding.offset, int):
        return f"{text} + {binding.offset * dtype.size_bytes}"
    return f"{text} + ({binding.offset}) * {dtype.size_bytes}"


def _constant(name: str, dim: Dim, constants: list[str]) -> str:
    """A size as the launcher passes it: an object made once if it is known, else the expression."""
    if isinstance(dim, int):
        constants.append(f"{name} = ctypes.c_int64({dim})")
        return name
    return dim if re.fullmatch(r"\w+", dim) else f"({dim})"
