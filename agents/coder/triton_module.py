"""Triton kernels as Python modules: the kernels themselves, how they are compiled, and a launcher with little to do.

A launch allocates the outputs, takes addresses and calls torch's own C launcher: no grid function, no hashing of
arguments, nothing left to decide. What Triton's launcher decides per call is decided here, once: kernels are compiled
for types and alignments. Where sizes are symbols there are two versions, and a call takes the one that fits: for rows
that all begin at multiples of 16 elements, and for any sizes.
"""

from __future__ import annotations

import itertools
import linecache
import re
import types
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2

from akg_dynamo.agents.coder.describe import checks, describe, fits, in_place_pairs, tuple_text
from akg_dynamo.agents.lowering.index import strides_of
from akg_dynamo.agents.sketch.ast import DType, For, Sketch
from akg_dynamo.agents.sketch.intexpr import evaluate, variables
from akg_dynamo.agents.sketch.overwrite import overwritable
from akg_dynamo.agents.sketch.printer import to_text
from akg_dynamo.core.types import Candidate, Design, Dim, Role, Subgraph, TensorBinding

if TYPE_CHECKING:
    from akg_dynamo.agents.lowering.triton_cuda import Phase, TritonKernel

_EVEN = 16  # bytes for addresses, elements for sizes: what Triton calls divisible
_TYPES = {
    DType.F64: "*fp64", DType.F32: "*fp32", DType.F16: "*fp16", DType.BF16: "*bf16", DType.I64: "*i64",
    DType.I32: "*i32", DType.I16: "*i16", DType.I8: "*i8", DType.U8: "*u8", DType.BOOL: "*i1",
}  # fmt: skip


def render(sub: Subgraph, design: Design, kernel: TritonKernel, name: str, *, fp_fusion: bool = True) -> Candidate:
    """The module of one kernel, for one subgraph's sizes (or symbols).

    fp_fusion: whether a * b + c may be rounded once.
    """
    writer = _Writer(sub, design, kernel)
    imports, kernels = _split_imports(kernel.source)
    versions = writer.versions()
    source = _template().render(
        name=name,
        inputs=[describe(n, s) for n, s in zip(writer.inputs, sub.inputs, strict=True)],
        outputs=[describe(n, s) for n, s in zip(writer.outputs, sub.output_specs, strict=True)],
        imports=imports,
        kernels=kernels,
        fp_fusion=fp_fusion,
        versions=versions,
        launches=" + ".join(f"{v.name}.launches" for v in versions),
        inputs_and_sizes=writer.parameters,
        allocations=writer.allocations(),
        in_place=in_place_pairs(sub, design, _shareable(design.sketch, kernel)),
        body=writer.body(versions),
        device_of=f"{writer.inputs[0]}.device" if writer.inputs else "torch.cuda.current_device()",
        realigned=", ".join([*(f"_aligned({x})" for x in writer.inputs), *writer.parameters[len(writer.inputs) :]]),
        interpreted=writer.interpreted(),
        first=kernel.phases[0].name,
        fits=fits(writer.inputs, sub.inputs, "is_cuda"),
        checks=checks(writer.inputs, sub.inputs),
    )
    return Candidate(name, source, "triton_cuda", to_text(design.sketch), kernel.source)


def _shareable(sketch: Sketch, kernel: TritonKernel) -> frozenset[tuple[str, str]]:
    """The sketch's outputs and inputs that may be one tensor in this kernel."""
    if sum(isinstance(s, For) for s in sketch.body) != len(kernel.phases):
        return frozenset()  # what runs at the same time is not what the sketch shows
    return overwritable(sketch, [phase.num_warps for phase in kernel.phases])


def known_sizes(design: Design) -> dict[str, int]:
    """The sketch's symbols whose value is known, with it: the lowering writes them into the kernels as numbers."""
    return {name: value for name, value in design.symbols if isinstance(value, int)}


def load(candidate: Candidate, build_dir: Path) -> types.ModuleType:
    """The candidate's module, executed. Nothing is compiled until `build()` or the first launch."""
    module = types.ModuleType(f"akg_kernel_{candidate.digest[:16]}")
    module.__dict__["BUILD_DIR"] = str(build_dir)
    filename = f"<kernel {candidate.name} {candidate.digest[:16]}>"
    # Triton compiles from the source of its functions, and asks linecache for it.
    linecache.cache[filename] = (len(candidate.source), None, candidate.source.splitlines(keepends=True), filename)
    exec(compile(candidate.source, filename, "exec"), module.__dict__)
    return module


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    return environment.from_string((Path(__file__).parent / "triton_module.py.j2").read_text(encoding="utf-8"))


def _split_imports(source: str) -> tuple[str, str]:
    """The import lines at the top of a file, and the rest."""
    lines = source.strip("\n").splitlines()
    head = list(itertools.takewhile(lambda line: not line or line.startswith(("import ", "from ", "#")), lines))
    imports = [line for line in head if line.startswith(("import ", "from "))]
    comments = [line for line in head if line.startswith("#")]
    return "\n".join(imports), "\n".join([*comments, *lines[len(head) :]]).strip("\n")


@dataclass(frozen=True)
class _Version:
    """The launches of all phases, compiled alike, and when a call takes them (no test: when nothing else fits)."""

    name: str
    launches: tuple[str, ...]
    test: str = ""


class _Writer:
    """The parts of one module that depend on the kernel."""

    def __init__(self, sub: Subgraph, design: Design, kernel: TritonKernel) -> None:
        self.sub, self.phases = sub, kernel.phases
        self.sketch: Sketch = design.sketch
        self.inputs = [f"x{i}" for i in range(len(sub.inputs))]
        self.outputs = [f"y{i}" for i in range(len(sub.outputs))]
        self.parameters = [*self.inputs, *(s.name for s in sub.symbols)]
        self.bindings = {b.tensor: b for b in design.tensors}
        self.dtypes = {t.name: t.dtype for t in design.sketch.tensors}
        self.scratch = [t.name for t in design.sketch.tensors if self.bindings[t.name].role is Role.SCRATCH]
        self.values: Mapping[str, Dim] = dict(design.symbols)
        self.locals = {s: self._local(s, v) for s, v in self.values.items() if not isinstance(v, int)}
        grids = [n for p in self.phases for g in p.grid for n in _names(g) if n in self.locals]
        self.used = dict.fromkeys([*(s for p in self.phases for s in p.symbols), *grids])

    def _local(self, symbol: str, value: str) -> str:
        """What a symbol is called in `run`: a parameter of the same value, or a name of its own."""
        if value in self.parameters:
            return value
        taken = re.fullmatch(r"[abnsxy]\d+|device|min|max|scratch\d+", symbol) or symbol in self.parameters
        return f"size_{symbol}" if taken else symbol

    # -- versions -----------------------------------------------------------------------------------------------------

    def versions(self) -> list[_Version]:
        """What is compiled, in the order in which a call asks whether it fits."""
        anything = _Version("_KERNELS", self._launches(frozenset()))
        even = self._uneven()
        if not even:
            return [anything]
        bits = " | ".join(self.locals[s] for s in self.used if s in even)
        test = f"not {f'({bits})' if len(even) > 1 else bits} & {_EVEN - 1}"
        return [_Version("_EVEN", self._launches(even), test), anything]

    def _launches(self, even: frozenset[str]) -> tuple[str, ...]:
        return tuple(self._launch(phase, even) for phase in self.phases)

    def _launch(self, phase: Phase, even: frozenset[str]) -> str:
        signature = [self._type(t) for t in phase.tensors]
        signature += [f"i64:{_EVEN}" if symbol in even else "i64" for symbol in phase.symbols]
        text = f'{phase.name}, "{", ".join(signature)}", num_warps={phase.num_warps}, num_stages={phase.num_stages}'
        text += ", asserts=True" if phase.asserts else ""
        grid = [self._grid(g) for g in phase.grid]
        return f"{text}, grid=({', '.join(_three(grid))})" if self._is_known(grid) else text

    def _type(self, tensor: str) -> str:
        """A pointer's type. Every tensor begins at a multiple of 16 bytes, but not what lies at an odd offset in it."""
        offset, dtype = self.bindings[tensor].offset, self.dtypes[tensor]
        even = isinstance(offset, int) and offset * dtype.size_bytes % _EVEN == 0
        return _TYPES[dtype] + (f":{_EVEN}" if even else "")

    def _uneven(self) -> frozenset[str]:
        """The symbols that decide whether rows begin at multiples of 16: those of strides that are not even anyway."""
        found: set[str] = set()
        for tensor in self.sketch.tensors:
            for stride in strides_of(tensor):
                names = {v for v in variables(stride) if v in self.used}
                if names and any(self._probe(stride, names, seed) % _EVEN for seed in (3, 5, 7)):
                    found |= names
        return frozenset(found)

    def _probe(self, stride: object, names: set[str], seed: int) -> int:
        """A stride at odd sizes."""
        known = {s: v for s, v in self.values.items() if isinstance(v, int)}
        return evaluate(stride, {**known, **{n: seed + 2 * i for i, n in enumerate(sorted(names))}})  # type: ignore[arg-type]

    # -- run ----------------------------------------------------------------------------------------------------------

    def allocations(self) -> list[str]:
        """An expression that makes each output."""
        return self._made_by("_empty({0}, {1}, {2})")

    def _made_by(self, form: str) -> list[str]:
        specs = self.sub.output_specs
        return [form.format(tuple_text(s.shape), tuple_text(s.stride), f"torch.{s.dtype}") for s in specs]

    def body(self, versions: list[_Version]) -> list[str]:
        """The lines of `run_into`."""
        lines = self._scratch("_empty({0}, {1}, {2})")
        lines.append(f"device = {self.outputs[0]}.get_device()")
        lines += [f"a{i} = {x}.data_ptr()" for i, x in enumerate(self.inputs)]
        if self.inputs:
            addresses = " | ".join(f"a{i}" for i in range(len(self.inputs)))
            bits = f"({addresses})" if len(self.inputs) > 1 else addresses
            lines.append(f"if {bits} & {_EVEN - 1} or {self.inputs[0]}.get_device() != device:")
            lines.append(f"    return _again({', '.join(self.parameters)})")
        lines += [f"b{i} = {y}.data_ptr()" for i, y in enumerate([*self.outputs, *self.scratch_names()])]
        lines += [f"{self.locals[s]} = {self.values[s]}" for s in self.used if self.locals[s] != self.values[s]]
        if len(versions) > 1:
            lines.append(f"kernels = {versions[0].name} if {versions[0].test} else {versions[1].name}")
        launches = [f"launch{i}" for i in range(len(self.phases))]
        kernels = "kernels" if len(versions) > 1 else versions[0].name
        lines.append(f"{', '.join(launches)}{',' if len(launches) == 1 else ''} = {kernels}[device]")
        if len(launches) > 1:
            lines.append("stream = _stream(device)")
        stream = "stream" if len(launches) > 1 else "_stream(device)"
        for launch, phase in zip(launches, self.phases, strict=True):
            grid = [self._grid(g) for g in phase.grid]
            where = "" if self._is_known(grid) else ", ".join(_three(grid)) + ", "
            pointers = [self._address(self.bindings[t]) for t in phase.tensors]
            sizes = [self.locals[s] for s in phase.symbols]
            lines.append(f"{launch}({where}({', '.join([*pointers, *sizes, 'None', 'None'])}), {stream})")
        return [*lines, f"return ({', '.join(self.outputs)},)"]

    def scratch_names(self) -> list[str]:
        """The launcher's names of scratch tensors."""
        return [f"scratch{i}" for i in range(len(self.scratch))]

    def _scratch(self, form: str) -> list[str]:
        lines = []
        for name, tensor in zip(self.scratch_names(), self.scratch, strict=True):
            size = tuple_text((self.bindings[tensor].size,))
            lines.append(f"{name} = {form.format(size, '(1,)', f'torch.{self.dtypes[tensor].torch_name}')}")
        return lines

    def _address(self, binding: TensorBinding) -> str:
        text = f"a{binding.index}" if binding.role is Role.INPUT else f"b{self._made(binding)}"
        size = self.dtypes[binding.tensor].size_bytes
        if isinstance(binding.offset, int):
            return f"{text} + {binding.offset * size}" if binding.offset else text
        return f"{text} + ({binding.offset}) * {size}"

    def _made(self, binding: TensorBinding) -> int:
        """Which of what `run` allocates: outputs, then scratch."""
        scratch = binding.role is Role.SCRATCH
        return len(self.outputs) + self.scratch.index(binding.tensor) if scratch else binding.index

    def _grid(self, expression: str) -> str:
        """A phase's grid expression over what `run` knows: an integer where everything in it is known."""
        if all(isinstance(self.values.get(n, ""), int) or n in ("min", "max") for n in _names(expression)):
            return str(_value(expression, self.values))
        return re.sub(r"[A-Za-z_]\w*", lambda m: self._known_as(m.group()), expression)

    def _known_as(self, name: str) -> str:
        value = self.values.get(name)
        return self.locals.get(name, name if value is None else str(value))

    @staticmethod
    def _is_known(grid: list[str]) -> bool:
        return all(g.isdecimal() for g in grid)

    # -- by the interpreter -------------------------------------------------------------------------------------------

    def interpreted(self) -> list[str]:
        """The lines of `_interpreted`."""
        form = "torch.empty_strided({0}, {1}, dtype={2})"
        lines = [f"{y} = {made}" for y, made in zip(self.outputs, self._made_by(form), strict=True)]
        lines += self._scratch(form)
        lines += [f"{self.locals[s]} = {self.values[s]}" for s in self.used if self.locals[s] != self.values[s]]
        for phase in self.phases:
            grid = _three([self._grid(g) for g in phase.grid])
            tensors = [self._pointer(self.bindings[t]) for t in phase.tensors]
            sizes = [self.locals[s] for s in phase.symbols]
            lines.append(f"{phase.name}[({', '.join(grid)})]({', '.join([*tensors, *sizes])})")
        return [*lines, f"return ({', '.join(self.outputs)},)"]

    def _pointer(self, binding: TensorBinding) -> str:
        if binding.role is Role.INPUT:
            text = self.inputs[binding.index]
        else:
            text = [*self.outputs, *self.scratch_names()][self._made(binding)]
        if binding.offset == 0:
            return text
        return f"{text}.as_strided((1,), (1,), {text}.storage_offset() + {binding.offset})"


def _three(grid: list[str]) -> list[str]:
    return [*grid, *["1"] * (3 - len(grid))]


def _names(expression: str) -> list[str]:
    return re.findall(r"[A-Za-z_]\w*", expression)


def _value(expression: Dim, values: Mapping[str, object]) -> int:
    """The value of an integer expression of our own making."""
    if isinstance(expression, int):
        return expression
    return int(eval(expression, {"__builtins__": {}, "min": min, "max": max}, dict(values)))
