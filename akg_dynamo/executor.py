"""Writes the forward of a compiled graph as Python source, and makes a function of it.

What stays with torch is spelled as plain ``torch.*`` calls, which cost less per call than eager's module code; a region
is one call of its kernel. Values are deleted at their last use, so that memory is never held longer than in eager; a
kernel may write into the memory of one that has just died (`reuse`), and views that only kernels read are not made
(`unmade`). The source is registered with linecache: a
traceback shows the generated line.

    def forward(args):
        x, weight = args
        args.clear()
        mm = torch.mm(x, weight)
        try:
            (mul,) = mul_sigmoid(mm)
        except Exception as error:
            (mul,) = latch("mul_sigmoid", error, mm)
        del mm
        return (mul,)
"""

from __future__ import annotations

import itertools
import linecache
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import fx

from akg_dynamo.fusion.symbols import SymbolSource
from akg_dynamo.postpone import postpone
from akg_dynamo.reinplace import Write, reinplace
from akg_dynamo.reuse import plan_reuse
from akg_dynamo.schedule import Region, Step, SymbolSources, is_view, schedule, step_inputs
from akg_dynamo.spelling import Namespace, Speller, is_whole
from akg_dynamo.unmade import unmade_views

Outputs = tuple[torch.Tensor, ...]
aten = torch.ops.aten
_INDENT = "    "
_numbers = itertools.count()


class BoxedForward(Protocol):
    """What AOTAutograd calls: takes one list and empties it."""

    def __call__(self, args: list[Any], /) -> Sequence[Any]: ...


class OnRaise(Protocol):
    """Told when a kernel raised: returns what the region's operators give on the kernel's arguments, and what runs
    instead of the kernel from then on. Where the operators raise too the inputs are at fault: that is raised, and the
    kernel stays.
    """

    def __call__(
        self, region: Region, error: Exception, arguments: tuple[Any, ...], /
    ) -> tuple[Outputs, Callable[..., Outputs]]: ...


@dataclass(frozen=True)
class Executable:
    """A generated forward. `given_up` are the regions that could not be placed, and stay with torch."""

    forward: BoxedForward
    source: str
    filename: str
    given_up: tuple[Region, ...]


def write_forward(
    gm: fx.GraphModule,
    regions: Sequence[Region],
    *,
    on_raise: OnRaise,
    inputs_are_guarded: bool = True,
    title: str = "forward",
    limits: Mapping[SymbolSource, int] | None = None,
    beyond: BoxedForward | None = None,
) -> Executable:
    """The forward of `gm` with each region computed by its kernel.

    inputs_are_guarded: Dynamo has checked the strides of the graph's inputs. A backward graph's are another graph's
        outputs, which it has not.
    limits: the largest sizes it serves; a call with others is handed to `beyond`.
    """
    return _Writer(
        gm,
        regions,
        on_raise,
        inputs_are_guarded=inputs_are_guarded,
        title=title,
        limits=limits or {},
        beyond=beyond,
    ).write()


class _Writer:
    def __init__(
        self,
        gm: fx.GraphModule,
        regions: Sequence[Region],
        on_raise: OnRaise,
        *,
        inputs_are_guarded: bool,
        title: str,
        limits: Mapping[SymbolSource, int],
        beyond: BoxedForward | None,
    ) -> None:
        self.gm = gm
        self.inputs_are_guarded = inputs_are_guarded
        self.title = title
        self.limits = limits
        self.beyond = beyond
        self.placeholders = [n for n in gm.graph.nodes if n.op == "placeholder"]
        self.output = next(n for n in reversed(gm.graph.nodes) if n.op == "output")
        self.sources = SymbolSources(gm.graph)
        self.names = {n: _identifier(n.name) for n in gm.graph.nodes}
        self.namespace = Namespace(set(self.names.values()) | _PYTHON_NAMES)
        self.speller = Speller(self.namespace, self.names)
        self.restride: str | None = None
        steps, given_up = schedule(gm.graph, regions)
        self.given_up = tuple(given_up)
        # Autograd itself holds a backward graph's tangents; what was saved for it goes when it has been read.
        freed = [] if inputs_are_guarded else [n for n in self.placeholders if not n.name.startswith("tangents")]
        steps = postpone(steps, self.output, freed=freed)
        reinplaced = reinplace(steps, self.output)
        self.steps = reinplaced.steps
        self.writes = reinplaced.writes
        self.reused = plan_reuse(self.steps, self.output, self.writes)
        asked = {source.node for source in self.sources.of.values()} | {
            n for w in self.writes.values() for n in w.inputs
        }
        self.unmade = unmade_views(self.steps, self.output, kept=asked | self.reused.taken | set(self.writes))
        self.steps = [s for s in self.steps if s not in self.unmade]
        self.read_by_kernel = {
            n for s in self.steps if isinstance(s, Region) for read in s.inputs for n in _laid_out_by(read)
        }
        self.kernels = _Kernels(self.namespace, on_raise)

    def write(self) -> Executable:
        lines = [*self._guard(), *self._unpack()]
        last_use = self._last_uses()
        for node in self.placeholders:
            if not self.inputs_are_guarded:
                lines += self._relaid(node)
        dead = [n for n in self.placeholders if n not in last_use]
        lines += self._delete(dead)
        for position, step in enumerate(self.steps):
            lines += self._region(step) if isinstance(step, Region) else self._node(step)
            made = step.outputs if isinstance(step, Region) else (step,)
            gone = [n for n in self._reads(step) if last_use[n] == position]
            gone += [n for n in made if n not in last_use and self._is_bound(n, step)]
            lines += self._delete(dict.fromkeys(gone))
        lines.append(f"return {self.speller.value(_as_tuple(self.output.args[0]))}")
        body = "\n".join(f"{_INDENT}{line}" for line in lines)
        source = f"# {self.title}: written by AKG from the captured graph.\ndef forward(args):\n{body}\n"
        filename = f"<akg {self.title} {next(_numbers)}>"
        linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
        exec(compile(source, filename, "exec"), self.namespace.globals)
        forward = self.namespace.globals["forward"]
        forward._boxed_call = True
        return Executable(forward, source, filename, self.given_up)

    # -- pieces ---------------------------------------------------------------------------------------------------

    def _guard(self) -> list[str]:
        """Before anything else: `args` still holds all tensors, and nothing else does."""
        if not self.limits:
            return []
        places = {node: f"args[{i}]" for i, node in enumerate(self.placeholders)}
        tests = (f"{source.text(places[source.node])} > {hi}" for source, hi in self.limits.items())
        return [f"if {' or '.join(tests)}:", f"{_INDENT}return {self.namespace.bind('beyond', self.beyond)}(args)"]

    def _unpack(self) -> list[str]:
        if not self.placeholders:
            return ["args.clear()"]
        names = ", ".join(self.names[n] for n in self.placeholders)
        return [f"{names}{',' if len(self.placeholders) == 1 else ''} = args", "args.clear()"]

    def _reads(self, step: Step) -> list[fx.Node]:
        if isinstance(step, Region):
            made = [n for view in self._unmade_for(step) for n in view.all_input_nodes]
            read = [*step_inputs(step), *made, *filter(None, self.reused.kernels.get(step, ()))]
            return [n for n in read if n not in self.unmade]
        return self.writes[step].inputs if step in self.writes else step_inputs(step)

    def _last_uses(self) -> dict[fx.Node, int]:
        last: dict[fx.Node, int] = {}
        for position, step in enumerate(self.steps):
            for node in self._reads(step):
                last[node] = position
            if self._expected_stride(step) is not None:
                for source in (
                    s for node in _made(step) for size in _stride_of(node) for s in self.sources.symbols(size)
                ):
                    last[source.node] = position
        for node in self.output.all_input_nodes:
            last[node] = len(self.steps)
        return last

    def _is_bound(self, node: fx.Node, step: Step) -> bool:
        return isinstance(step, Region) or not self._returns_nothing(node)

    def _delete(self, nodes: Any) -> list[str]:
        names = [self.names[n] for n in nodes if n.op != "get_attr"]
        return [f"del {', '.join(names)}"] if names else []

    @staticmethod
    def _returns_nothing(node: fx.Node) -> bool:
        """A call for its effect: its value, if it has one, is read by nobody."""
        target = node.target
        if isinstance(target, torch._ops.OpOverload):
            return not target._schema.returns or (target is aten.copy_.default and not node.users)
        return False

    def _node(self, node: fx.Node) -> list[str]:
        if node.op == "get_attr":
            value = operator.attrgetter(str(node.target))(self.gm)
            self.names[node] = self.namespace.bind(node.name + "_constant", value)
            return []
        text = self._call(node)
        if node in self.writes and self.writes[node].path:
            return [text, f"{self.names[node]} = {self.names[self.writes[node].base]}"]
        if self._returns_nothing(node):
            return [text]
        return [f"{self.names[node]} = {text}", *self._relaid(node)]

    def _call(self, node: fx.Node) -> str:
        if node in self.writes:
            return self._write_in_place(self.writes[node])
        operand = self.reused.operators.get(node)
        return self.speller.call(node) if operand is None else self.speller.overwriting_call(node, operand)

    def _write_in_place(self, write: Write) -> str:
        text = self.names[write.base]
        for overload, where in write.path:
            if overload is aten.slice.Tensor and is_whole(where):
                continue
            text = self._piece(text, overload, where)
        arguments = self.speller.arguments(write.args, dict(write.kwargs))
        namespace, _, operator_name = write.method.rpartition("::")
        if namespace:
            overload = getattr(aten, operator_name).default
            return f"{self.namespace.bind(f'aten_{operator_name}', overload._op)}({text}, {arguments})"
        return f"{text}.{write.method}({arguments})"

    def _piece(self, text: str, overload: Any, where: tuple[Any, ...]) -> str:
        arguments = self.speller.arguments(where, {})
        if overload is aten.select.int:
            return f"{text}.select({arguments})"
        return f"{self.namespace.bind('aten_slice', overload._op)}({text}, {arguments})"

    def _unmade_for(self, region: Region) -> list[fx.Node]:
        """The views that the region's nodes read and that are not made, each after what it is a view of."""
        found: dict[fx.Node, None] = {}
        for node in region.inputs:
            chain: list[fx.Node] = []
            while node in self.unmade:
                chain.append(node)
                node = node.all_input_nodes[0]
            found.update(dict.fromkeys(reversed(chain)))
        return list(found)

    def _region(self, region: Region) -> list[str]:
        views = self._unmade_for(region)
        kernel = self.kernels.bind(region, takes_bases=bool(views))
        symbols = list(map(self._symbol, region.symbols))
        arguments = ", ".join([*(self.names[self.unmade.get(n, n)] for n in region.inputs), *symbols])
        originals = ", ".join([*(self.names[n] for n in region.inputs), *symbols])
        results = "".join(f"{self.names[n]}, " for n in region.outputs).rstrip()
        results = f"({results})" if len(region.outputs) == 1 else results.rstrip(",")
        call = f"{kernel}({arguments})"
        if region in self.reused.kernels:
            memory = (
                self.names[n] if n is not None else self._allocation(output)
                for n, output in zip(self.reused.kernels[region], region.outputs, strict=True)
            )
            call = f"{kernel}_into({', '.join([*memory, arguments])})"
        return [
            "try:",
            f"{_INDENT}{results} = {call}",
            "except Exception as error:",
            *(f"{_INDENT}{self.names[n]} = {self.speller.call(n)}" for n in views),
            f"{_INDENT}{results} = {kernel}_raised(error, {originals})",
            *(f"{_INDENT}{line}" for line in self._delete(views)),
        ]

    def _allocation(self, node: fx.Node) -> str:
        """Memory for a value of known sizes, as Python text."""
        value = node.meta["val"]
        where = f"dtype={self.speller.value(value.dtype)}, device={self.speller.value(value.device)}"
        return f"torch.empty_strided({tuple(value.shape)}, {value.stride()}, {where})"

    def _integer(self, size: object) -> str:
        """A size or stride as Python text."""
        if not isinstance(size, torch.SymInt):
            return str(size)
        names = {symbol: f"({self._symbol(self.sources.of[symbol])})" for symbol in size.node.expr.free_symbols}
        return _PythonText(names).doprint(size.node.expr)

    def _symbol(self, source: SymbolSource) -> str:
        return source.text(self.names[source.node])

    # -- layout -----------------------------------------------------------------------------------------------------

    def _expected_stride(self, step: Step) -> fx.Node | None:
        """The step, if its strides are to be checked: a kernel reads by them, and a meta function may be wrong."""
        if isinstance(step, Region) or step not in self.read_by_kernel or step in self.writes:
            return None
        value = step.meta.get("val")
        if not isinstance(value, torch.Tensor) or value.layout is not torch.strided or value.dim() < 2:
            return None
        if step.op == "call_function" and _has_faithful_meta(step):
            return None
        return step

    def _relaid(self, node: fx.Node) -> list[str]:
        if self._expected_stride(node) is None:
            return []
        if self.restride is None:
            self.restride = self.namespace.bind("restride", restride)
        stride = ", ".join(map(self._integer, _stride_of(node)))
        name = self.names[node]
        return [f"if {name}.stride() != ({stride}):", f"{_INDENT}{name} = {self.restride}({name}, ({stride}))"]


class _Latched(Exception):
    """What stands in a kernel's place raises it where its callers hand over bases for views: these are then made."""


class _Kernels:
    """The kernels as globals of the generated source: `name`, `name_into`, and `name_raised` for the latch."""

    def __init__(self, namespace: Namespace, on_raise: OnRaise) -> None:
        self.namespace = namespace
        self.globals = namespace.globals
        self.on_raise = on_raise
        self.bound: dict[tuple[int, bool], str] = {}
        self.allocating: dict[str, Callable[..., Outputs]] = {}
        self.may_reuse = True

    def bind(self, region: Region, *, takes_bases: bool) -> str:
        """The region's kernel's name: regions of one kernel share it, those apart that give it bases for views."""
        key = (id(region.run), takes_bases)
        if key not in self.bound:
            name = self.bound[key] = self.namespace.name(region.name)
            self._bind(name, region, takes_bases)
        return self.bound[key]

    def _bind(self, name: str, region: Region, takes_bases: bool) -> None:
        run, first_run = region.run, region.first_run

        def allocating(*arguments: Any) -> Outputs:
            """`name_into` without its first arguments: the dead tensors."""
            outputs: Outputs = self.globals[name](*arguments[len(region.outputs) :])
            return outputs

        into = f"{name}_into"
        self.allocating[into] = allocating
        run_into = region.run_into or allocating
        self.globals[name], self.globals[into] = run, run_into
        if first_run is not None:

            def first(*arguments: Any) -> Outputs:
                self.globals[name] = run
                if self.may_reuse:
                    self.globals[into] = run_into
                return first_run(*arguments)

            self.globals[name], self.globals[into] = first, allocating

        replaced: list[Callable[..., Outputs]] = []

        def latched(*_: Any) -> Outputs:
            raise _Latched

        def raised(error: Exception, *arguments: Any) -> Outputs:
            if isinstance(error, _Latched):
                return replaced[-1](*arguments)
            # A kernel raises before it writes (one that may raise later is given no input to write into), so that
            # starting over is safe. From here on the global is the replacement, and no later call reaches the kernel.
            # What torch's operators return may be laid out otherwise, or share memory: no kernel of this graph writes
            # into the tensors of others any more.
            outputs, instead = self.on_raise(region, error, arguments)
            self.may_reuse = False
            self.globals.update(self.allocating)
            replaced.append(instead)
            self.globals[name] = latched if takes_bases and instead is not run else instead
            return outputs

        self.globals[f"{name}_raised"] = raised


def restride(tensor: torch.Tensor, stride: tuple[int, ...]) -> torch.Tensor:
    """`tensor` laid out with `stride`: itself, when they differ only where a dim has one element or none."""
    if tensor.numel() == 0 or all(
        size == 1 or have == want for size, have, want in zip(tensor.shape, tensor.stride(), stride, strict=True)
    ):
        return tensor
    return torch.empty_strided(tensor.shape, stride, dtype=tensor.dtype, device=tensor.device).copy_(tensor)


def _laid_out_by(node: fx.Node) -> Iterator[fx.Node]:
    """The node, and what its layout follows from: the base of a view, the operands of an elementwise operator."""
    todo, found = [node], {node}
    while todo:
        node = todo.pop()
        yield node
        if node.op == "call_function" and is_view(node):
            sources = node.all_input_nodes[:1]
        else:
            sources = node.all_input_nodes if _is_pointwise(node) else []
        todo += [n for n in sources if n not in found]
        found.update(sources)


def _made(step: Step) -> Sequence[fx.Node]:
    return step.outputs if isinstance(step, Region) else (step,)


def _stride_of(node: fx.Node) -> tuple[Any, ...]:
    value = node.meta.get("val")
    return tuple(value.stride()) if isinstance(value, torch.Tensor) else ()


_FAITHFUL = frozenset(
    """mm addmm bmm baddbmm mv addmv dot cat stack embedding index_select clone native_layer_norm native_dropout full
    empty zeros ones arange rand randn copy _to_copy empty_strided new_zeros new_full scalar_tensor""".split()  # noqa: SIM905
)
"""Operators whose meta function gives the strides the kernel really returns."""


def _has_faithful_meta(node: fx.Node) -> bool:
    target = node.target
    if target is operator.getitem:
        source = node.args[0]
        return isinstance(source, fx.Node) and _has_faithful_meta(source)
    if not isinstance(target, torch._ops.OpOverload) or target.namespace != "aten":
        return False
    return is_view(node) or _is_pointwise(node) or target._schema.name.partition("::")[2] in _FAITHFUL


def _is_pointwise(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and torch.Tag.pointwise in node.target.tags


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, (list, tuple)) else value


_PYTHON_NAMES = frozenset("forward error Exception repr slice min max int".split())  # noqa: SIM905


def _identifier(name: str) -> str:
    return f"{name}_" if name in _PYTHON_NAMES or name in ("args", "torch", "inf", "nan") else name


class _PythonText:
    """A sympy expression over a graph's symbols as Python text."""

    def __init__(self, names: Mapping[Any, str]) -> None:
        from torch.utils._sympy.printers import PythonPrinter

        class Printer(PythonPrinter):
            def _print_Symbol(self, expression: Any) -> str:
                return names[expression]

        self._printer = Printer()

    def doprint(self, expression: Any) -> str:
        """The text."""
        return str(self._printer.doprint(expression))
