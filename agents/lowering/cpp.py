"""A sketch as one self-contained C++17 file with OpenMP.

    kernel = lower(sketch)     # kernel.source; kernel.entry: extern "C" void (pointer per tensor, int64_t per symbol)

It dispatches on the language's constructs only. A kernel has one vector width: W lanes of its widest dtype fill a
register. The prelude's helpers are small and always inlined; only those that are used are written into the file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from akg_dynamo.agents.lowering import cpp_ops
from akg_dynamo.agents.lowering.cpp_emit import BlockEmitter
from akg_dynamo.agents.lowering.cpp_ops import STORED
from akg_dynamo.agents.lowering.index import c_name, c_text, strides_of
from akg_dynamo.agents.lowering.ir import Program, build
from akg_dynamo.agents.lowering.schedule import Schedule
from akg_dynamo.agents.sketch import ast as sk
from akg_dynamo.agents.sketch.ast import DType


@dataclass(frozen=True)
class CppKernel:
    """`source`: the file. `entry`: its one exported function."""

    source: str
    entry: str


def lower(sketch: sk.Sketch) -> CppKernel:
    """The C++ of a sketch. LoweringError for what the language allows and C++ cannot express."""
    program = build(sketch)
    schedule = Schedule(program)
    emitter = BlockEmitter(program, schedule)
    emitter.block(program.block, {})
    entry = c_name(sketch.name)
    parameters = [f"{'const ' if t.kind == 'in' and t.name not in schedule.mutable else ''}{STORED[t.dtype]}* __restrict {c_name(t.name)}" for t in sketch.tensors]
    parameters += [f"int64_t {c_name(s)}" for s in sketch.symbols]
    head = [f"  constexpr int64_t {c_name(c.name)} = {c.value};" for c in sketch.constexprs]
    head += _strides(sketch)
    lines = [f'extern "C" void {entry}({", ".join(parameters)}) {{', *head, *(f"  {line}" for line in emitter.lines), "}", ""]
    body = "\n".join(lines)
    width = _lane_bytes(program, schedule)
    vector_bytes = "#ifdef __AVX512F__\n#define LANES {0}\n#else\n#define LANES {1}\n#endif\nconstexpr int W = LANES;  // of a vector\n"
    about = f"// {sketch.name}: " + ", ".join(f"{t.name} {t.kind} {t.dtype.value}" for t in sketch.tensors) + "\n"
    return CppKernel(about + vector_bytes.format(64 // width, 32 // width) + _prelude(body) + "\n" + body, entry)


def _strides(sketch: sk.Sketch) -> list[str]:
    lines: list[str] = []
    for t in sketch.tensors:
        for dim, expr in enumerate(strides_of(t)):
            if isinstance(expr, sk.IntBin):
                lines.append(f"  [[maybe_unused]] const int64_t {c_name(t.name)}_s{dim} = {c_text(expr, {})};")
    return lines


def _lane_bytes(program: Program, schedule: Schedule) -> int:
    """Of the widest value that is held in vectors."""
    widest = 1
    for plan in schedule.plans.values():
        for leaf in plan.leaves:
            for sink in leaf.sinks:
                for value in [*schedule.closure(sink)]:
                    if plan.vector in value.axes and value.dtype is not DType.BOOL:
                        widest = max(widest, cpp_ops.held_bytes(value.dtype))
                    if value.kind == "load" and any(plan.vector in a.axes for a in value.args[: len(value.args) - value.masked]):
                        widest = max(widest, 8)  # addresses per lane
    return widest


_WORD = re.compile(r"[A-Za-z_]\w*")
_PROVIDES = re.compile(r"^(?:template <[^\n]*> )?(?:INLINE inline [^\n({]*?(\w+)\(|struct (\w+))", re.MULTILINE)


@cache
def _sections() -> dict[str, str]:
    here = Path(__file__).parent
    text = "".join((here / name).read_text() for name in ("prelude.h", "prelude_math.h"))
    sections: dict[str, str] = {}
    for piece in text.split("//@ ")[1:]:
        name, _, code = piece.partition("\n")
        sections[name.strip()] = code
    return sections


@cache
def _provided() -> dict[str, str]:
    """Function or type -> the section that defines it."""
    out: dict[str, str] = {}
    for name, code in _sections().items():
        out[name] = name
        for function, struct in _PROVIDES.findall(code):
            out.setdefault(function or struct, name)
    return out


def _prelude(body: str) -> str:
    """The helpers that `body` uses, in the order they stand in the prelude."""
    sections, provided = _sections(), _provided()
    used = {"core"}
    todo = [body]
    while todo:
        for word in set(_WORD.findall(todo.pop())):
            section = provided.get(word)
            if section is not None and section not in used:
                used.add(section)
                todo.append(sections[section])
    return "".join(code for name, code in sections.items() if name in used)
