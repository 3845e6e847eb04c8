"""A sketch as one self-contained C++17 file with OpenMP.

    kernel = lower(sketch)     # kernel.source; kernel.entry: extern "C" void (pointer per tensor, int64_t per symbol)

Where the sketch has `checked` indices the entry returns an int instead, which is not 0 when one was out of range.

It dispatches on the language's constructs only. Each innermost loop has its own vector width: W lanes of the widest
dtype that it holds fill a register. The prelude's helpers are small and always inlined; only those that are used are
written into the file: at the width that most loops have as they are, at another in a namespace (`by8`: 8-byte lanes).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

from akg_dynamo.agents.lowering import cpp_ops
from akg_dynamo.agents.lowering.cpp_emit import BlockEmitter, namespace
from akg_dynamo.agents.lowering.cpp_memory import PAST
from akg_dynamo.agents.lowering.cpp_ops import STORED
from akg_dynamo.agents.lowering.index import c_name, c_text, strides_of, times
from akg_dynamo.agents.lowering.ir import build
from akg_dynamo.agents.lowering.prelude import prelude
from akg_dynamo.agents.lowering.schedule import Schedule
from akg_dynamo.agents.sketch import ast as sk
from akg_dynamo.agents.sketch.intexpr import simplify
from akg_dynamo.agents.sketch.overwrite import overwritable

_CACHE_BYTES = 24 << 20
"""Of tensors together, from which on outputs are written past the caches: what has a reader would be gone before it."""
_LANES = """\
#ifdef __AVX512F__
#define LANES {0}
#else
#define LANES {1}
#endif
constexpr int W = LANES;  // of a vector
"""
_ANOTHER_WIDTH = """\
#undef LANES
namespace {0} {{
{1}}}  // namespace {0}
"""


@dataclass(frozen=True)
class CppKernel:
    """`source`: the file. `entry`: its one exported function. `reports`: it returns whether an index was wrong."""

    source: str
    entry: str
    reports: bool = False


def lower(sketch: sk.Sketch) -> CppKernel:
    """The C++ of a sketch. LoweringError for what the language allows and C++ cannot express."""
    program = build(sketch)
    schedule = Schedule(program)
    emitter = BlockEmitter(program, schedule)
    emitter.block(program.block, {})
    entry = c_name(sketch.name)
    parameters: list[str] = []
    may_be_one = {name for pair in overwritable(sketch, lane_by_lane=True) for name in pair}
    for t in sketch.tensors:
        const = "const " if t.kind == "in" and t.name not in schedule.mutable else ""
        restrict = "" if t.name in may_be_one else "__restrict "
        parameters.append(f"{const}{STORED[t.dtype]}* {restrict}{c_name(t.name)}")
    parameters += [f"int64_t {c_name(s)}" for s in sketch.symbols]
    head = [f"  constexpr int64_t {c_name(c.name)} = {c.value};" for c in sketch.constexprs]
    head += _strides(sketch)
    head += [f"  huge_pages({c_name(t.name)}, {_bytes(t)});" for t in sketch.tensors if t.kind != "in" and t.shape]
    settles = emitter.settles(0)
    if settles:
        head.append(
            f"  const bool {PAST} = {_footprint(sketch)} > {_CACHE_BYTES >> 20} << 20;  // more than caches hold"
        )
    reports = emitter.reports
    if reports:
        head.append(f"  int {cpp_ops.REPORT} = 0;")
    lines = [
        f'extern "C" {"int" if reports else "void"} {entry}({", ".join(parameters)}) {{',
        *head,
        *(f"  {line}" for line in emitter.lines),
        *(["  settle();"] if settles else []),
        *([f"  return {cpp_ops.REPORT};"] if reports else []),
        "}",
        "",
    ]
    body = "\n".join(lines)
    about = f"// {sketch.name}: " + ", ".join(f"{t.name} {t.kind} {t.dtype.value}" for t in sketch.tensors) + "\n"
    helpers = _lanes(schedule.lane_bytes) + prelude(body)
    for lane_bytes, texts in sorted(emitter.at_other_widths.items()):
        helpers += _ANOTHER_WIDTH.format(namespace(lane_bytes), _lanes(lane_bytes) + prelude("\n".join(texts)))
    return CppKernel(about + helpers + "\n" + body, entry, reports)


def _lanes(lane_bytes: int) -> str:
    return _LANES.format(64 // lane_bytes, 32 // lane_bytes)


def _bytes(decl: sk.TensorDecl) -> str:
    return c_text(reduce(times, (*decl.shape, sk.IntConst(decl.dtype.size_bytes))), {})


def _footprint(sketch: sk.Sketch) -> str:
    """The bytes of all tensors."""
    sizes = [reduce(times, (*t.shape, sk.IntConst(t.dtype.size_bytes))) for t in sketch.tensors]
    return " + ".join(c_text(simplify(size), {}, 1) for size in sizes)


def _strides(sketch: sk.Sketch) -> list[str]:
    lines: list[str] = []
    for t in sketch.tensors:
        for dim, expr in enumerate(strides_of(t)):
            if isinstance(expr, sk.IntBin):
                lines.append(f"  [[maybe_unused]] const int64_t {c_name(t.name)}_s{dim} = {c_text(expr, {})};")
    return lines
