"""Which expressions of a wrapper compute with tensors: operators and methods on what may be one.

What `forward` is given is taken for tensors, and what comes of those by views, and what is allocated. Numbers come of
shapes and sizes. What is passed to a function or a method of the module is followed there.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from akg_dynamo.agents.verifier import reading_words as words
from akg_dynamo.agents.verifier.reading_names import Names, is_jit

_NUMBERS = frozenset({"int", "float", "bool", "str"})
_MADE = (
    "torch.empty", "torch.zeros", "torch.ones", "torch.full", "torch.arange", "torch.tensor", "torch.as_strided",
    "torch.cat", "torch.stack", "torch.transpose", "torch.reshape", "torch.clone", "torch.nn.Parameter",
)  # fmt: skip
_PASSES = 3


class Tensors:
    """Follows tensors through one module."""

    def __init__(self, tree: ast.Module, names: Names) -> None:
        self.names = names
        self.functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and not is_jit(n, names)]
        self.by_name = {f.name: f for f in self.functions}
        self.held: set[str] = set()  # attributes of self that are tensors
        self.layers: set[str] = set()  # … and that are layers of torch's
        self.given: dict[str, set[str]] = {f.name: set() for f in self.functions}
        for f in self.functions:
            if f.name in ("forward", "__call__", "run"):
                self.given[f.name] = {a.arg for a in _parameters(f) if a.arg != "self" and not _is_number(a)}

    def computed(self) -> Iterator[tuple[int, str]]:
        """Where something is computed, and how."""
        for _ in range(_PASSES):
            for f in self.functions:
                _Function(self, f).run()
        for f in self.functions:
            function = _Function(self, f)
            function.run()
            if f.name != "__init__":  # where there are no inputs yet
                yield from function.found


class _Function(ast.NodeVisitor):
    """One pass over one function."""

    def __init__(self, module: Tensors, function: ast.FunctionDef) -> None:
        self.module = module
        self.names = module.names
        self.function = function
        self.tensors = set(module.given[function.name])
        self.containers: set[str] = set()
        self.found: list[tuple[int, str]] = []

    def run(self) -> None:
        for statement in self.function.body:
            self.visit(statement)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        """Has a pass of its own."""

    def is_tensor(self, node: ast.AST) -> bool:
        """Whether that may be one."""
        if isinstance(node, ast.Name):
            return node.id in self.tensors
        if isinstance(node, ast.Attribute):
            if isinstance(node.value, ast.Name) and node.value.id == "self":
                return node.attr in self.module.held
            if node.attr in ("weight", "bias"):
                return True
            return node.attr in words.VIEWS and self.is_tensor(node.value)
        if isinstance(node, ast.Subscript):
            return self.is_tensor(node.value)
        if isinstance(node, ast.BinOp):
            return self.is_tensor(node.left) or self.is_tensor(node.right)
        if isinstance(node, ast.UnaryOp):
            return self.is_tensor(node.operand)
        if isinstance(node, ast.IfExp):
            return self.is_tensor(node.body) or self.is_tensor(node.orelse)
        if isinstance(node, ast.Call):
            dotted = self.names.dotted(node.func) or ""
            if dotted.startswith("torch."):
                return dotted.startswith(_MADE) or not words.allowed_of_torch(dotted)
            if isinstance(node.func, ast.Attribute):
                method = node.func.attr
                return self.is_tensor(node.func.value) and (
                    method in words.VIEWS or method in words.computing_methods()
                )
        return False

    # -- what is assigned ---------------------------------------------------------------------------------------------

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        for target in node.targets:
            self._assign(target, node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)
            self._assign(node.target, node.value)

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Tuple | ast.List):
            parts = value.elts if isinstance(value, ast.Tuple | ast.List) else [value] * len(target.elts)
            for t, v in zip(target.elts, parts, strict=False):
                self._assign(t, v)
            return
        if isinstance(target, ast.Name):
            if isinstance(
                value, ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp | ast.Constant
            ):
                self.containers.add(target.id)
            if self.is_tensor(value):
                self.tensors.add(target.id)
            elif target.id not in self.module.given[self.function.name]:
                self.tensors.discard(target.id)
        elif isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self":
            if self.is_tensor(value):
                self.module.held.add(target.attr)
            if isinstance(value, ast.Call) and words.is_layer(self.names.dotted(value.func) or ""):
                self.module.layers.add(target.attr)

    # -- what computes ------------------------------------------------------------------------------------------------

    def note(self, node: ast.AST, text: str) -> None:
        self.found.append((getattr(node, "lineno", 0), text))

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if isinstance(node.op, ast.MatMult) or self.is_tensor(node.left) or self.is_tensor(node.right):
            self.note(node, f"computes {ast.unparse(node)[:60]}")
        else:
            self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if not isinstance(node.op, ast.Not) and self.is_tensor(node.operand):
            self.note(node, f"computes {ast.unparse(node)[:60]}")
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        same = all(isinstance(op, ast.Is | ast.IsNot | ast.In | ast.NotIn) for op in node.ops)
        if not same and any(map(self.is_tensor, [node.left, *node.comparators])):
            self.note(node, f"compares {ast.unparse(node)[:60]}")
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if self.is_tensor(node.target) or self.is_tensor(node.value):
            self.note(node, f"computes {ast.unparse(node)[:60]}")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        function = node.func
        if isinstance(function, ast.Attribute) and self.names.dotted(function) is None:
            self._method(function, node)
        elif isinstance(function, ast.Name):
            self._follow(function.id, node, 0)
        if isinstance(function, ast.Call) and words.is_layer(self.names.dotted(function.func) or ""):
            self.note(node, f"calls {ast.unparse(function)[:60]}")
        self.generic_visit(node)

    def _method(self, function: ast.Attribute, node: ast.Call) -> None:
        name, owner = function.attr, function.value
        of_self = isinstance(owner, ast.Name) and owner.id == "self"
        if of_self and name in self.module.layers:
            self.note(node, f"calls the layer self.{name}")
        elif of_self and name in self.module.by_name:
            self._follow(name, node, 1)
        elif name == "forward" and isinstance(owner, ast.Attribute) and owner.attr in self.module.layers:
            self.note(node, f"calls the layer {owner.attr}")
        elif name in ("to", "type"):
            self._cast(function, node)
        elif name in words.computing_methods():
            literal = isinstance(owner, ast.Constant | ast.List | ast.Dict | ast.Set | ast.JoinedStr)
            plain = isinstance(owner, ast.Name) and (owner.id in self.containers or owner.id in self.names.defined)
            if not literal and not plain and not of_self:
                self.note(node, f"calls .{name}()")

    def _cast(self, function: ast.Attribute, node: ast.Call) -> None:
        for value in [*node.args, *(k.value for k in node.keywords)]:
            dotted = self.names.dotted(value) or ""
            if dotted in words.DTYPES:
                self.note(node, f"casts to {dotted}")

    def _follow(self, name: str, node: ast.Call, skipped: int) -> None:
        """What is passed to a function of the module is a tensor there."""
        called = self.module.by_name.get(name)
        if called is None:
            return
        parameters = [a.arg for a in _parameters(called)][skipped:]
        passed = [*zip(parameters, node.args, strict=False), *((k.arg, k.value) for k in node.keywords)]
        self.module.given[name] |= {p for p, value in passed if p is not None and self.is_tensor(value)}


def _parameters(f: ast.FunctionDef) -> list[ast.arg]:
    return [*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs]


def _is_number(parameter: ast.arg) -> bool:
    if parameter.annotation is None:  # sizes have such names in AKG's own modules
        return re.fullmatch(r"s\d+", parameter.arg) is not None
    return isinstance(parameter.annotation, ast.Name) and parameter.annotation.id in _NUMBERS
