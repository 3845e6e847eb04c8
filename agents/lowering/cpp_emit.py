"""Blocks, loops and segments as C++ lines."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from akg_dynamo.agents.lowering import cpp_ops
from akg_dynamo.agents.lowering.cpp_leaf import LeafEmitter, Registers
from akg_dynamo.agents.lowering.cpp_memory import Names, Turned, turnable
from akg_dynamo.agents.lowering.cpp_place import Place, lane_name
from akg_dynamo.agents.lowering.cpp_strips import emit_strips, strip_of
from akg_dynamo.agents.lowering.index import Ranges, c_name, c_text
from akg_dynamo.agents.lowering.ir import Axis, Block, Loop, Program, Segment, SetVariable, StoreTo, Value, Variable
from akg_dynamo.agents.lowering.prelude import definitions
from akg_dynamo.agents.lowering.schedule import Leaf, Nest, Plan, Schedule, operands, shared_parents
from akg_dynamo.agents.sketch import ast as sk
from akg_dynamo.agents.sketch.intexpr import simplify

_INDENT = "  "
_PARALLEL_FROM = 150_000  # simple lane operations that pay for waking the other threads
_STACK_BYTES = 1 << 16
_WORD = re.compile(r"[A-Za-z_]\w*")
_LOCAL = re.compile(r"\bauto (\w+) =")
_VECTOR_TYPE = re.compile(r"[fiu]\d+v|V|W")
_DECLARED = re.compile(r"(\w+)(?:\[\d+\])?(?: = .*)?;$")


@dataclass
class BlockEmitter:
    """Writes a program's blocks. `lines` is the result."""

    program: Program
    schedule: Schedule
    lines: list[str] = field(default_factory=list)
    depth: int = 0
    parallel: bool = False

    def __post_init__(self) -> None:
        self.ranges = Ranges(self.program.constexprs)
        self.places: dict[Value, Place] = {}
        self.variables: dict[Variable, Place] = {}
        self.stored: set[Value] = set()
        self.turned: dict[Value | StoreTo | SetVariable, Turned] = {}
        self.at_other_widths: dict[int, list[str]] = {}
        self.reports = any(v.kind == "op" and v.name == "checked" for v in self.program.values)
        self.by_reference: set[str] = {cpp_ops.REPORT} if self.reports else set()
        self.read = {v.access.tensor.name for v in self.program.values if v.access is not None}
        self.teams = 0
        self._uses: dict[int, dict[Value, int]] = {}

    def line(self, text: str) -> None:
        """One line at the present indentation."""
        self.lines.append("  " * self.depth + text if text else "")

    def captures(self, head: int) -> str:
        """How the lambda whose body follows line `head` captures: locals that it writes, and buffers, by reference."""
        words = set(_WORD.findall("\n".join(self.lines[head + 1 :])))
        local = set(_LOCAL.findall("\n".join(self.lines[head + 1 :])))
        return ", ".join(["=", *(f"&{name}" for name in sorted((words & self.by_reference) - local))])

    def settles(self, head: int) -> bool:
        """Whether the lines from `head` on may store past the caches."""
        return any("store_past<" in line for line in self.lines[head:])

    def borrow(self, text: str, lane_bytes: int) -> list[str]:
        """What `text` needs of the helpers at another width than the usual one, by their full names."""
        if lane_bytes == self.schedule.lane_bytes:
            return []
        self.at_other_widths.setdefault(lane_bytes, []).append(text)
        words = {w for w in _WORD.findall(text) if w in definitions() or _VECTOR_TYPE.fullmatch(w)}
        return [f"{namespace(lane_bytes)}::{word}" for word in sorted(words)]

    def qualified(self, text: str, lane_bytes: int) -> str:
        """The text, with the helpers and types of that width."""
        names = {name.rpartition(":")[2]: name for name in self.borrow(text, lane_bytes)}
        return _WORD.sub(lambda word: names.get(word[0], word[0]), text)

    def declare(self, line: str) -> None:
        """A line that defines a local which inner loops write, or a buffer."""
        name = _DECLARED.search(line)
        assert name is not None
        # (Static buffers need no capture; scalars other than a scan's carry are only written outside.)
        if "static" not in line and ("[" in line or name.group(1).startswith("carry_")):
            self.by_reference.add(name.group(1))
        self.line(line)

    def use_counts(self, plan: Plan) -> dict[Value, int]:
        """How often each value is an operand in a segment's loops."""
        if id(plan) not in self._uses:
            counts: dict[Value, int] = {}
            for leaf in plan.leaves:
                for sink in leaf.sinks:
                    for operand in operands(sink):
                        counts[operand] = counts.get(operand, 0) + 1
                    for value in self.schedule.closure(sink):
                        for arg in value.args:
                            counts[arg] = counts.get(arg, 0) + 1
            self._uses[id(plan)] = counts
        return self._uses[id(plan)]

    # -- blocks and loops

    def block(self, block: Block, registers: Registers) -> None:
        """A loop's body, or the whole."""
        for axis in block.axes:
            self._axis(axis, c_text(axis.start, {}))
        for variable in block.declared:
            place = Place(f"{c_name(variable.c_name)}_v", variable.axes, variable.dtype)
            self.variables[variable] = place
            self.declare(place.declaration(_STACK_BYTES))
        for item in block.items:
            if isinstance(item, Loop):
                self._loop(item, registers)
            elif self.schedule.plans[item].leaves:
                SegmentEmitter(self, item, self.schedule.plans[item]).emit(registers)

    def _axis(self, axis: Axis, start: str) -> None:
        name = c_name(axis.c_name)
        self.ranges.loops[axis.name] = (axis.start, axis.stop)
        self.line(f"const int64_t {name} = {start};")
        self._axis_end(axis)

    def _axis_end(self, axis: Axis) -> None:
        name = c_name(axis.c_name)
        end = f"min2<int64_t>({name} + {axis.size}, {c_text(axis.stop, {})})"
        self.line(f"[[maybe_unused]] const int64_t {name}_end = {end};")

    def _loop(self, loop: Loop, registers: Registers) -> None:
        if loop.source.parallel and not self.parallel:
            self._team(loop, registers)
            return
        strip = strip_of(loop, self.schedule)
        if strip is not None:
            emit_strips(self, loop, *strip, registers)
            return
        self._head(loop)
        self.depth += 1
        self._inside(loop, registers)
        self.depth -= 1
        self.line("}")

    def _head(self, loop: Loop, end: str = " {") -> None:
        source, name = loop.source, c_name(loop.source.var)
        start, stop = c_text(source.start, {}), c_text(source.stop, {})
        step = f"{name}++" if loop.axis is None else f"{name} += {loop.axis.size}"
        self.line(f"for (int64_t {name} = {start}; {name} < {stop}; {step}){end}")

    def _inside(self, loop: Loop, registers: Registers) -> None:
        self.ranges.loops[loop.source.var] = (loop.source.start, loop.source.stop)
        if loop.axis is not None:
            self._axis_end(loop.axis)
        self.block(loop.block, dict(registers))

    def _team(self, loop: Loop, registers: Registers) -> None:
        """A parallel loop: its body as a function, called by all threads, or by this one alone when that is faster.

        (An `if` clause would do, but even a team of one costs a third of a microsecond to form.)
        """
        chain = [loop]
        inner = _only_parallel_loop(loop.block, self.schedule)
        while inner is not None and not _mentions(inner, chain):
            chain.append(inner)
            inner = _only_parallel_loop(inner.block, self.schedule)
        self.teams += 1
        body = f"body_{self.teams}"
        head = len(self.lines)
        self.line(f"const auto {body} = [&]({', '.join(f'int64_t {c_name(each.source.var)}' for each in chain)}) {{")
        self.depth += 1
        self.parallel = True
        for each in chain[:-1]:
            self.ranges.loops[each.source.var] = (each.source.start, each.source.stop)
            if each.axis is not None:
                self._axis_end(each.axis)
        outside, self.by_reference = self.by_reference, set(self.by_reference)
        self._inside(chain[-1], registers)
        self.by_reference = outside
        self.parallel = False
        self.depth -= 1
        self.line("};")
        call = f"{body}({', '.join(c_name(each.source.var) for each in chain)});"
        collapse = f" collapse({len(chain)})" if len(chain) > 1 else ""
        settles = self.settles(head)
        self.line(f"if ({_work(loop, self.schedule)} > {_PARALLEL_FROM}) {{")
        if settles:
            self.line("#pragma omp parallel")
            self.line("{")
            self.line(f"#pragma omp for{collapse} schedule(static) nowait")
        else:
            self.line(f"#pragma omp parallel for{collapse} schedule(static)")
        for pragma in (True, False):
            self.depth += 1
            for each in chain:
                self._head(each, "")
                self.depth += 1
            self.line(call)
            self.depth -= len(chain) + 1
            if pragma and settles:
                self.line(f"{_INDENT}settle();")
                self.line("}")
            self.line("} else {" if pragma else "}")


def namespace(lane_bytes: int) -> str:
    """Where the helpers for vectors with lanes of that size are, unless it is the usual one."""
    return f"by{lane_bytes}"


def _only_parallel_loop(block: Block, schedule: Schedule) -> Loop | None:
    items = [i for i in block.items if isinstance(i, Loop) or schedule.plans[i].leaves]
    if (
        len(items) == 1
        and isinstance(items[0], Loop)
        and items[0].source.parallel
        and not block.axes
        and not block.declared
    ):
        return items[0]
    return None


def _names(expr: sk.IntExpr) -> set[str]:
    if isinstance(expr, sk.IntVar):
        return {expr.name}
    return _names(expr.a) | _names(expr.b) if isinstance(expr, sk.IntBin) else set()


def _mentions(loop: Loop, outer: list[Loop]) -> bool:
    used = _names(loop.source.start) | _names(loop.source.stop)
    return any(o.source.var in used for o in outer)


def _work(loop: Loop, schedule: Schedule) -> str:
    """An estimate of a loop's work in simple lane operations, as an expression over symbols.

    Where an inner loop's bounds depend on an outer variable (a chunk of a sum, a triangle), the outer loop's first
    trip stands for all of them; its last, where the first is known to have next to nothing to do.
    """
    factors: list[str] = []
    first: dict[str, sk.IntExpr] = {}
    last: dict[str, sk.IntExpr] = {}
    cost = 1
    todo: list[tuple[Block, Loop | None]] = [(loop.block, loop)]
    while todo:
        block, source = todo.pop()
        extents = [(source.source.start, source.source.stop)] if source is not None else []
        extents += [(a.start, a.stop) for a in block.axes]
        for start, stop in extents:
            length = sk.IntBin("-", stop, start)
            typical = simplify(_substitute(length, first))
            if isinstance(typical, sk.IntConst) and typical.value <= 1:
                typical = simplify(_substitute(length, last))
            factors.append(c_text(typical, {}, 2))
        if source is not None:
            first[source.source.var] = _substitute(source.source.start, first)
            last[source.source.var] = _substitute(sk.IntBin("-", source.source.stop, sk.IntConst(1)), last)
        for item in block.items:
            if isinstance(item, Segment):
                cost += sum(schedule.cost(v) + 1 for s in item.sinks for v in operands(s))
        loops = [i for i in block.items if isinstance(i, Loop)]
        cost += 2 * max(0, len(loops) - 1)
        if loops:
            deepest = max(loops, key=lambda item: sum(1 for _ in _descendants(item)))
            todo.append((deepest.block, deepest))
    return " * ".join([*factors, str(cost)])


def _substitute(expr: sk.IntExpr, values: dict[str, sk.IntExpr]) -> sk.IntExpr:
    if isinstance(expr, sk.IntVar):
        return values.get(expr.name, expr)
    if isinstance(expr, sk.IntBin):
        return sk.IntBin(expr.op, _substitute(expr.a, values), _substitute(expr.b, values))
    return expr


def _descendants(loop: Loop) -> list[Loop]:
    found = [loop]
    for item in loop.block.items:
        if isinstance(item, Loop):
            found += _descendants(item)
    return found


class SegmentEmitter:
    """One segment's loops over lanes."""

    def __init__(self, blocks: BlockEmitter, segment: Segment, plan: Plan) -> None:
        self.blocks = blocks
        self.segment = segment
        self.plan = plan
        self.schedule = blocks.schedule
        self.owned: dict[Nest | None, list[Value]] = {}
        self.dead: set[Value] = set()

    def emit(self, registers: Registers) -> None:
        """Writes it; what it leaves in scalars is added to `registers`."""
        self._place()
        self._declare(None)
        self._children(self.plan.children, registers, [])

    def _place(self) -> None:
        """Where each located value is stored, and in which scope."""
        users: dict[Value, list[Leaf]] = {}
        for leaf in self.plan.leaves:
            for sink in leaf.sinks:
                for value in self.schedule.closure(sink):
                    if value in self.plan.place and self.plan.place[value] is not leaf:
                        users.setdefault(value, []).append(leaf)
        for value, leaf in self.plan.place.items():
            where = users.get(value, [])
            if value in self.schedule.outside:
                common: tuple[Nest, ...] = ()
            elif where:
                common = shared_parents([leaf, *where])
            elif value.kind == "reduce":
                self.dead.add(value)
                continue
            else:
                continue  # a register is enough
            bound = {nest.axis for nest in common}
            dims = tuple(a for a in leaf.path if a in value.axes and a not in bound)
            hint = c_name(value.hint) if value.hint else value.name or "t"
            self.blocks.places[value] = Place(f"{hint}_{value.id}{'_tile' if dims else ''}", dims, value.dtype)
            self.owned.setdefault(common[-1] if common else None, []).append(value)

    def _declare(self, owner: Nest | None) -> None:
        for value in self.owned.get(owner, []):
            self.blocks.declare(self.blocks.places[value].declaration(_STACK_BYTES))

    def _children(self, children: list[Nest | Leaf], registers: Registers, bound: list[Axis]) -> None:
        for child in children:
            leaves = [child] if isinstance(child, Leaf) else list(child.leaves())
            emitter = LeafEmitter(self.blocks, self.plan, registers, bound, self.dead)
            for leaf in leaves:
                emitter.hoist(leaf)
            if isinstance(child, Leaf):
                emitter.leaf(child)
                continue
            for leaf in leaves:
                for sink in leaf.sinks:
                    if (
                        isinstance(sink, Value)
                        and sink.axis is child.axis
                        and sink not in self.dead
                        and sink.kind in ("reduce", "scan")
                    ):
                        emitter.reductions.start_along(sink, leaf)
            turned_stores = self._turn(child, leaves, bound, emitter.names)
            name = c_name(child.axis.c_name)
            lane = lane_name(child.axis)
            self.blocks.line(f"for (int64_t {lane} = {name}; {lane} < {name}_end; {lane}++) {{")
            self.blocks.depth += 1
            self._declare(child)
            self._children(child.children, dict(registers), [*bound, child.axis])
            self.blocks.depth -= 1
            self.blocks.line("}")
            for turned in turned_stores:
                self.blocks.line(turned.copy(emitter.names, load=False))

    def _turn(self, nest: Nest, leaves: list[Leaf], bound: list[Axis], names: Names) -> list[Turned]:
        """Loads whose lanes are adjacent along the nest's axis come by a buffer, filled here; such stores go by one."""
        stores: list[Turned] = []
        vector = self.plan.vector
        for leaf in leaves:
            if vector not in leaf.path or nest.axis not in leaf.path:
                continue
            assert vector is not None
            for sink in leaf.sinks:
                if isinstance(sink, StoreTo) and turnable(sink.access, names, nest.axis, vector, bound):
                    turned = Turned(
                        f"{c_name(sink.access.tensor.name)}_out_{len(self.blocks.turned)}",
                        nest.axis,
                        vector,
                        sink.access,
                    )
                    self.blocks.declare(turned.declaration)
                    self.blocks.turned[sink] = turned
                    stores.append(turned)
                for value in self.schedule.closure(sink):
                    access = value.access
                    if access is None or value.masked or value in self.blocks.turned or self.schedule.pinned(value):
                        continue
                    if not self.schedule.located(value) and turnable(access, names, nest.axis, vector, bound):
                        turned = Turned(
                            f"{c_name(access.tensor.name)}_in_{len(self.blocks.turned)}", nest.axis, vector, access
                        )
                        self.blocks.declare(turned.declaration)
                        self.blocks.line(turned.copy(names, load=True))
                        self.blocks.turned[value] = turned
        return stores
