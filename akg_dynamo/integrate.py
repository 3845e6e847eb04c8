"""A model as a file of its own: writes ``class ModelNew`` around the kernels that won in a captured graph.

captured = exported.capture(model, args, kwargs)
text = write(captured, pieces, model_file=…)     Python that needs torch and the kernels' files, nothing of AKG
piece.text                                       a kernel's file
"""

from __future__ import annotations

import ast
import builtins
import heapq
import keyword
import re
import sys
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import jinja2
import torch
from torch import fx
from torch.export.graph_signature import InputKind, OutputKind

from akg_dynamo.core.errors import UserError
from akg_dynamo.core.naming import camel
from akg_dynamo.core.types import Candidate, Subgraph
from akg_dynamo.exported import Captured
from akg_dynamo.fusion.ops import OpKind, classify
from akg_dynamo.spelling import Namespace, Speller

_MAX_LITERAL = 1024
"""A constant tensor of more elements than this is not written out as text."""


class CutLike(Protocol):
    """What the writer needs of one extracted subgraph."""

    @property
    def subgraph(self) -> Subgraph: ...
    @property
    def inputs(self) -> tuple[fx.Node, ...]: ...
    @property
    def outputs(self) -> tuple[fx.Node, ...]: ...
    @property
    def nodes(self) -> Sequence[fx.Node]: ...


@dataclass(frozen=True)
class Piece:
    """One subgraph and the kernel that replaces it, which is written to ``{op}_generated.py``."""

    cut: CutLike
    op: str
    candidate: Candidate

    @property
    def key(self) -> str:
        """What the kernel's file and the model's must agree on: they are moved, replaced and imported by name."""
        return self.candidate.digest[:16]

    @property
    def text(self) -> str:
        """The kernel's file."""
        return (
            f'{self.candidate.source.rstrip()}\n\n\nKEY = "{self.key}"  # the files that import this kernel check it\n'
        )


# --------------------------------------------------------------------------------------------------------------------
# Text of values, calls and containers


class _TextNamespace(Namespace):
    """Globals of a written file: what generated code elsewhere binds as objects has a text here."""

    def __init__(self, taken: set[str], users: set[str]) -> None:
        super().__init__(taken)
        self._users = users
        self.texts: dict[str, str] = {}
        self.target: Any = None

    def bind(self, hint: str, value: Any) -> str:
        """The name under which `value` is reachable, and how the file gets at it."""
        hint = f"_{hint.lstrip('_')}"
        while hint in self._users:
            hint += "_"
        name = super().bind(hint, value)
        self.texts.setdefault(name, self._text(value))
        return name

    def _text(self, value: Any) -> str:
        if isinstance(self.target, torch._ops.OpOverload) and value is self.target._op:
            namespace, _, op = self.target._schema.name.partition("::")
            if namespace not in _TORCH_NAMESPACES:
                raise UserError(
                    f"the model calls {self.target}, which only exists once the library that registers it is imported; "
                    "a file of its own cannot rely on that. Leave it out of the module."
                )
            return f"torch.ops.{namespace}.{op}.{self.target._overloadname}._op"
        if isinstance(value, torch.device):
            return f"torch.device({str(value)!r})"
        module, name = getattr(value, "__module__", None), getattr(value, "__name__", "")
        if name and getattr(torch._C._nn, name, None) is value:
            return f"torch._C._nn.{name}"
        if name and module in sys.modules and getattr(sys.modules[module], name, None) is value:
            root = module.partition(".")[0]
            return f"torch.{name}" if module == "torch" else f"__import__({root!r}){module[len(root) :]}.{name}"
        raise UserError(
            f"the graph holds a {type(value).__name__} ({value!r:.80}), which cannot be written as Python text."
        )


_TORCH_NAMESPACES = ("aten", "prims", "torchvision", "quantized", "_c10d_functional", "higher_order")


class _Writer:
    """The body of one forward."""

    def __init__(self, captured: Captured, pieces: Sequence[Piece], model_file: Path) -> None:
        self.captured = captured
        self.pieces = pieces
        self.model_file = model_file
        self.names: dict[fx.Node, str] = {}
        users = _names_used(model_file)
        self.aliases = {p.op: _aliases(p.op, users) for p in pieces}
        kernels = {name for pair in self.aliases.values() for name in pair}
        self.namespace = _TextNamespace({"self", "args", "kwargs", "ModelNew"} | kernels | _RESERVED, users)
        self.speller = Speller(self.namespace, self.names)
        self.constants: dict[str, str] = {}
        self.imports: dict[str, None] = {}
        self.lines: list[str] = []

    # ---- names

    def name(self, node: fx.Node) -> str:
        if node not in self.names:
            self.names[node] = self.namespace.name(node.name)
        return self.names[node]

    def value(self, x: Any) -> str:
        return self.speller.value(x)

    def call(self, node: fx.Node) -> str:
        self.namespace.target = node.target
        return self.speller.call(node)

    # ---- inputs

    def inputs(self) -> tuple[list[fx.Node], list[tuple[fx.Node, str]]]:
        """The user's tensors in order, and the model's own with the expression that reads each."""
        signature = self.captured.program.graph_signature
        by_name = {spec.arg.name: spec for spec in signature.input_specs if hasattr(spec.arg, "name")}
        user, own = [], []
        for node in self.captured.graph_module.graph.nodes:
            if node.op != "placeholder":
                continue
            spec = by_name[node.name]
            if spec.kind is InputKind.USER_INPUT:
                user.append(node)
            elif spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
                assert spec.target is not None
                own.append((node, _attribute(spec.target)))
            elif spec.kind is InputKind.CONSTANT_TENSOR:
                assert spec.target is not None
                own.append((node, self.constant(spec.target)))
            else:
                raise UserError(
                    f"the graph has an input of kind {spec.kind.name}, which a file of its own cannot hold."
                )
        return user, own

    def constant(self, target: str) -> str:
        tensor = self.captured.program.constants[target]
        if not isinstance(tensor, torch.Tensor) or tensor.numel() > _MAX_LITERAL:
            raise UserError(
                f"the model keeps a large tensor as a plain attribute ({target}) or builds it in its forward. "
                "Make it a buffer (self.register_buffer)."
            )
        name = f"_constant_{len(self.constants)}"
        values = re.sub(r"\b(nan|inf)\b", r'float("\1")', repr(tensor.tolist()))
        self.constants[name] = f"torch.tensor({values}, dtype={tensor.dtype})"
        return name

    # ---- body

    def body(self, order: Sequence[fx.Node | Piece]) -> None:
        piece_outputs = {id(p): [self.name(n) for n in p.cut.outputs] for p in self.pieces}
        last = self._last_uses(order)
        where = ""
        for position, unit in enumerate(order):
            nodes = list(unit.cut.nodes) if isinstance(unit, Piece) else [unit]
            here = self.source_lines(nodes)
            if here and here != where:
                self.lines += [f"# {line}" for line in here.split("\n")]
                where = here
            if isinstance(unit, Piece):
                made = piece_outputs[id(unit)]
                left = ", ".join(made) + ("," if len(made) == 1 else "")
                function = self.aliases[unit.op][1]
                call = f"{left} = {function}({', '.join(self.name(n) for n in unit.cut.inputs)})"
                self.lines += _refusable(call) if "IndexError" in unit.candidate.source else [call]
            else:
                self.lines.append(f"{self.name(unit)} = {self.call(unit)}")
            if dead := last.get(position):
                self.lines.append(f"del {', '.join(dead)}")

    def _last_uses(self, order: Sequence[fx.Node | Piece]) -> dict[int, list[str]]:
        """Intermediates to drop after each position: eager frees them as it goes, and so must the written forward."""
        output = next(n for n in self.captured.graph_module.graph.nodes if n.op == "output")
        kept = set(output.all_input_nodes)
        last: dict[fx.Node, int] = {}
        for position, unit in enumerate(order):
            made = unit.cut.outputs if isinstance(unit, Piece) else (unit,)
            for node in made:
                last[node] = position
            for node in _reads(unit):
                if node in last:
                    last[node] = position
        drops: dict[int, list[str]] = {}
        for node, position in last.items():
            if node not in kept and position < len(order) - 1:
                drops.setdefault(position, []).append(self.name(node))
        return drops

    def source_lines(self, nodes: Sequence[fx.Node]) -> str:
        """The user's lines that a unit came from, as comments."""
        found: dict[str, None] = {}
        for node in nodes:
            frames = re.findall(r'File "([^"]+)", line (\d+), in \S+\n\s*(.*)', node.meta.get("stack_trace") or "")
            own = [f for f in frames if Path(f[0]) == self.model_file] or [f for f in frames if "/torch/" not in f[0]]
            if own:
                file, line, text = own[-1]
                found[f"{Path(file).name}:{line}: {text.strip()}"] = None
        return "\n".join(found)

    # ---- outputs

    def ending(self) -> None:
        """Writes back what the model mutates, and rebuilds what it returns."""
        program = self.captured.program
        output = next(n for n in self.captured.graph_module.graph.nodes if n.op == "output")
        placeholders = {n.name: n for n in self.captured.graph_module.graph.nodes if n.op == "placeholder"}
        results = []
        for value, spec in zip(output.args[0], program.graph_signature.output_specs, strict=True):
            if spec.kind is OutputKind.USER_OUTPUT:
                results.append(self.value(value))
            elif spec.kind is OutputKind.BUFFER_MUTATION:
                assert spec.target is not None
                self.lines.append(f"{_attribute(spec.target)}.copy_({self.value(value)})")
            elif spec.kind is OutputKind.USER_INPUT_MUTATION:
                assert spec.target is not None
                self.lines.append(f"{self.name(placeholders[spec.target])}.copy_({self.value(value)})")
            else:
                raise UserError(f"the graph has an output of kind {spec.kind.name}, which is not written out.")
        self.lines.append(f"return {self.container(program.call_spec.out_spec, iter(results))}")

    def container(self, spec: Any, leaves: Any) -> str:
        if spec.is_leaf():
            return str(next(leaves))
        children = [self.container(child, leaves) for child in spec.children()]
        kind = spec.type
        if kind is type(None):
            return "None"
        if kind is tuple:
            return f"({', '.join(children)}{',' if len(children) == 1 else ''})"
        if kind is list:
            return f"[{', '.join(children)}]"
        if kind in (dict, OrderedDict):
            items = ", ".join(f"{k!r}: {c}" for k, c in zip(spec.context, children, strict=True))
            return f"{{{items}}}" if kind is dict else f"__import__('collections').OrderedDict({{{items}}})"
        importable = isinstance(kind, type) and "<locals>" not in kind.__qualname__
        keys = spec.context if isinstance(spec.context, list | tuple) else getattr(kind, "_fields", None)
        if importable and isinstance(kind, type) and issubclass(kind, dict) and keys is not None:
            self.imports[f"from {kind.__module__} import {kind.__qualname__}"] = None
            flat = keys[0] if len(keys) and isinstance(keys[0], list | tuple) else keys
            return f"{kind.__qualname__}({', '.join(f'{k}={c}' for k, c in zip(flat, children, strict=True))})"
        raise UserError(f"the model returns a {kind}; tuples, lists, dicts and transformers' outputs can be written.")


_RESERVED = frozenset(keyword.kwlist) | frozenset(dir(builtins))


def _aliases(op: str, users: set[str]) -> tuple[str, str]:
    """What a kernel's class and function are called in the written file: never a name that the user's code uses."""
    return camel(op) + ("Kernel" if camel(op) in users else ""), op + ("_kernel" if op in users else "")


def _names_used(path: Path) -> set[str]:
    """Names in the user's file, which a global of ours must not replace."""
    tree = ast.parse(path.read_text())
    named = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
    defined = {n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    aliases = [a for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom) for a in n.names]
    return named | defined | {(a.asname or a.name).partition(".")[0] for a in aliases}


def _refusable(call: str) -> list[str]:
    """A kernel's call that may raise for a wrong index, in the original's words. (What is mutated is mutated last.)"""
    original = "return super().forward(*args, **kwargs)  # an index is out of range: the original says which"
    return ["try:", f"    {call}", "except IndexError:", f"    {original}"]


def _attribute(target: str) -> str:
    """``layers.0.weight`` as an expression: numbered children are items of the container."""
    text = "self"
    for part in target.split("."):
        text += f".{part}" if part.isidentifier() else f'._modules["{part}"]'
    return text


def _reads(unit: fx.Node | Piece) -> Sequence[fx.Node]:
    return unit.cut.inputs if isinstance(unit, Piece) else unit.all_input_nodes


def _schedule(graph: fx.Graph, pieces: Sequence[Piece]) -> list[fx.Node | Piece]:
    """What has to run, nodes and kernels, in an order that respects data flow and is close to the graph's own.

    A view or a constant may be computed inside several kernels and outside as well: what nobody asks for is not run.
    """
    made_by: dict[fx.Node, Piece] = {node: piece for piece in pieces for node in piece.cut.outputs}
    place = {node: i for i, node in enumerate(graph.nodes)}
    needs: dict[int, set[int]] = {}
    units: dict[int, fx.Node | Piece] = {}

    def unit_of(node: fx.Node) -> int:
        unit = made_by.get(node, node)
        # a kernel stands where its first result stood
        number = min(place[n] for n in unit.cut.outputs) if isinstance(unit, Piece) else place[unit]
        units[number] = unit
        return number

    asked = [
        unit_of(n) for n in next(n for n in graph.nodes if n.op == "output").all_input_nodes if n.op != "placeholder"
    ]
    while asked:
        number = asked.pop()
        if number not in needs:
            needs[number] = {unit_of(n) for n in _reads(units[number]) if n.op != "placeholder"}
            asked += needs[number]
    random = sorted(n for n in needs if isinstance(node := units[n], fx.Node) and classify(node) is OpKind.RANDOM)
    for before, after in pairwise(random):
        needs[after].add(before)  # they draw from one stream
    users: dict[int, list[int]] = {}
    for number, found in needs.items():
        for source in found:
            users.setdefault(source, []).append(number)
    waiting = {number: len(found) for number, found in needs.items()}
    ready = [number for number, count in waiting.items() if count == 0]
    heapq.heapify(ready)
    order: list[fx.Node | Piece] = []
    while ready:
        number = heapq.heappop(ready)
        order.append(units[number])
        for user in users.get(number, ()):
            waiting[user] -= 1
            if waiting[user] == 0:
                heapq.heappush(ready, user)
    assert len(order) == len(needs), "the pieces make a cycle"
    return order


# --------------------------------------------------------------------------------------------------------------------
# Guards: structure (another one raises) and values (others run the original forward)


def _structure(value: Any, path: str, tests: list[str], leaves: list[tuple[str, Any]]) -> None:
    """Tests that an argument is nested as the example was, and the paths of its leaves."""
    if isinstance(value, dict) and type(value) in (dict, OrderedDict):
        tests.append(f"isinstance({path}, dict) and list({path}) == {list(value)!r}")
        for k, v in value.items():
            _structure(v, f"{path}[{k!r}]", tests, leaves)
    elif type(value) in (list, tuple):
        tests.append(f"isinstance({path}, {type(value).__name__}) and len({path}) == {len(value)}")
        for i, v in enumerate(value):
            _structure(v, f"{path}[{i}]", tests, leaves)
    elif isinstance(value, torch.Tensor):
        tests.append(f"isinstance({path}, torch.Tensor)")
        leaves.append((path, value))
    elif value is None or isinstance(value, bool | int | float | str):
        leaves.append((path, value))
    else:
        raise UserError(
            f"an input is a {type(value).__name__}: tensors, numbers, and tuples, lists and dicts of them can be given."
        )


def _tensor_test(path: str, value: torch.Tensor) -> str:
    # What answers without making an object for it is asked, where it means the same.
    contiguous = value.is_contiguous() and all(size > 1 for size in value.shape)
    stride = f"{path}.is_contiguous()" if contiguous else f"{path}.stride() == {tuple(value.stride())}"
    kind = value.device.type
    device = f"{path}.is_{kind}" if kind in ("cpu", "cuda") else f"{path}.device.type == {kind!r}"
    return f"{path}.dtype is {value.dtype} and {path}.shape == {tuple(value.shape)} and {stride} and {device}"


# --------------------------------------------------------------------------------------------------------------------
# The file


def without_main(source: str) -> str:
    """A file's text without its ``if __name__ == "__main__":`` blocks: the rest is copied into the written file."""
    lines = source.splitlines()
    for node in reversed(ast.parse(source).body):
        if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test) and "__main__" in ast.unparse(node.test):
            del lines[node.lineno - 1 : node.end_lineno]
    return "\n".join(lines).rstrip() + "\n"


def write(
    captured: Captured | None,
    pieces: Sequence[Piece],
    *,
    model: torch.nn.Module,
    model_file: Path,
    user_module: str,
    note: str = "",
) -> str:
    """The text of ``{model}_generated.py``.

    captured None, or no pieces: nothing won, and ModelNew's forward is the original forward.
    user_module: the name under which the user's file was executed, to know which classes are its own.

    Raises:
        UserError: something of the model cannot be written as text.
    """
    cls = type(model)
    if "<locals>" in cls.__qualname__:
        raise UserError(f"the model's class {cls.__qualname__} is local to a function; define it at the top of a file.")
    outermost = cls.__qualname__.partition(".")[0]
    facts: dict[str, Any] = {
        "source": without_main(model_file.read_text()),
        "file": model_file.name,
        "base": cls.__qualname__,
        "base_import": "" if cls.__module__ == user_module else f"from {cls.__module__} import {outermost}",
        "note": note,
        "torch_version": torch.__version__.partition("+")[0],
        "kernels": [],
    }
    if captured is not None and pieces:
        facts |= _forward(captured, pieces, model_file)
    here = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(here), trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    text = environment.get_template("model_generated.py.j2").render(**facts)
    ast.parse(text)  # the contract of this stage: it is Python
    return text


def _forward(captured: Captured, pieces: Sequence[Piece], model_file: Path) -> Mapping[str, Any]:
    writer = _Writer(captured, pieces, model_file)
    user, own = writer.inputs()
    tests: list[str] = []
    leaves: list[tuple[str, Any]] = []
    for i, arg in enumerate(captured.args):
        _structure(arg, f"args[{i}]", tests, leaves)
    for key, arg in captured.kwargs.items():
        _structure(arg, f"kwargs[{key!r}]", tests, leaves)
    assert len(leaves) == len(user), "torch.export has one input per leaf"
    guards, reads = [], []
    needs_grad = []
    for (path, value), node in zip(leaves, user, strict=True):
        if not isinstance(value, torch.Tensor):
            same = f"type({path}) is {type(value).__name__} and {path} == {value!r}"
            guards.append(f"{path} is None" if value is None else same)
            continue
        guards.append(_tensor_test(path, value))
        reads.append(f"{writer.name(node)} = {path}")
        needs_grad.append(writer.name(node))
    graph = captured.graph_module.graph
    order = _schedule(graph, pieces)
    used = {n for unit in order for n in _reads(unit)} | set(
        next(n for n in graph.nodes if n.op == "output").all_input_nodes
    )
    into_kernels = {n for p in pieces for n in p.cut.inputs}
    for node, expression in own:
        if node not in used:
            continue
        name = writer.name(node)
        reads.append(f"{name} = {expression}")
        needs_grad.append(name)
    keys = {p.op: p.key for p in pieces}
    own_guards = [_tensor_test(writer.name(node), node.meta["val"]) for node, _ in own if node in into_kernels]
    writer.body(order)
    writer.ending()
    return {
        "kernels": [{"op": op, "key": keys[op], "cls": cls, "run": run} for op, (cls, run) in writer.aliases.items()],
        "literals": sorted(name for name in ("inf", "nan") if re.search(rf"\b{name}\b", "\n".join(writer.lines))),
        "bound": sorted(writer.namespace.texts.items()),
        "constants": sorted(writer.constants.items()),
        "imports": sorted(writer.imports),
        "arity": len(captured.args),
        "keywords": list(captured.kwargs),
        "structure": tests,
        "guards": guards,
        "reads": reads,
        "own_guards": own_guards,
        "differentiable": needs_grad,
        "frozen": [f"self.get_submodule({name!r}).training" if name else "self.training" for name in captured.frozen],
        "body": writer.lines,
    }
