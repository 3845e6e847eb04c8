"""The screen that reads a candidate's source: what a kernel and its wrapper have no use for is refused with its line.

    for finding in read(source, "triton"):
        print(finding)                     # line 21: computes with torch or a vendor library: torch.relu

It is an allow-list by DSL, over the syntax tree: modules, names of torch, methods of tensors, operators on tensors.
What it lets through may still cheat, and is caught while it runs; what it refuses was not needed. A kernel language's
own functions (`@triton.jit`) are not looked at: they have no way to anything but memory.

"torch" stands for plain Python that may compute with torch, and is held to everything else.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from akg_dynamo.agents.verifier import reading_words as words
from akg_dynamo.agents.verifier.reading_cpp import looks_like_cpp, read_cpp
from akg_dynamo.agents.verifier.reading_names import Names, is_jit
from akg_dynamo.agents.verifier.reading_tensors import Tensors
from akg_dynamo.core.types import Trick

_COMPILED = ("cpp", "cuda", "tilelang_cuda")
_REFERENCE = frozenset({"Model", "get_inputs", "get_init_inputs", "get_inputs_dyn_list"})


@dataclass(frozen=True)
class Finding:
    """One thing that is refused."""

    trick: Trick
    line: int
    text: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.trick.value}: {self.text}"


def read(source: str, dsl: str) -> list[Finding]:
    """What is refused, by line; nothing for a source that is no Python, which fails by itself."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return []
    reader = _Reader(tree, dsl)
    reader.visit(tree)
    if dsl != "torch":
        reader.found += [
            Finding(Trick.CALLS_TORCH, line, text) for line, text in Tensors(tree, reader.names).computed()
        ]
    unique = dict.fromkeys(sorted(reader.found, key=lambda f: f.line))
    return list(unique)


def dsl_of(source: str) -> str:
    """What a source seems to be written in: triton, cuda, cpp, or torch when it has no kernel of its own."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return "torch"
    imported = {name.partition(".")[0] for name in Names(tree).imported}
    if "triton" in imported:
        return "triton"
    texts = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    if any("__global__" in t for t in texts):
        return "cuda"
    return "cpp" if any(map(looks_like_cpp, texts)) else "torch"


class _Reader(ast.NodeVisitor):
    """Walks a module, and notes what is refused."""

    def __init__(self, tree: ast.Module, dsl: str) -> None:
        self.dsl = dsl
        self.compiles = dsl in _COMPILED
        self.names = Names(tree)
        self.found: list[Finding] = []
        self.parents = {child: parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)}

    def note(self, trick: Trick, node: ast.AST, text: str) -> None:
        self.found.append(Finding(trick, getattr(node, "lineno", 0), text))

    # -- modules ------------------------------------------------------------------------------------------------------

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._module(alias.name, node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        name = node.module or ""
        taken = [a.name for a in node.names]
        if node.level or _REFERENCE & set(taken):
            self.note(Trick.CALLS_REFERENCE, node, f"imports {', '.join(taken)} from {'.' * node.level}{name}")
            return
        if not self._module(name, node):
            return
        for alias in node.names:
            if alias.name == "*" and name != "triton.language":
                self.note(Trick.HIDES_CALLS, node, f"imports everything from {name}")
            else:
                self._dotted(f"{name}.{alias.name}", node)

    def _module(self, name: str, node: ast.AST) -> bool:
        root = name.partition(".")[0]
        own = self.dsl.partition("_")[0]
        allowed = (
            root in words.MODULES or root == own or (root in words.BUILDERS and (self.compiles or root in _FOR_FILES))
        )
        if root == "ctypes" and not self.compiles:
            allowed = False
        if not allowed:
            self.note(words.trick_of_module(name), node, f"imports {name}")
        return allowed

    # -- names --------------------------------------------------------------------------------------------------------

    def visit_Name(self, node: ast.Name) -> None:
        if node.id in self.names.defined:
            return
        dotted = self.names.dotted(node)
        if dotted is not None:
            self._dotted(dotted, node)
        elif node.id in words.BUILTINS and not self._is_plain_lookup(node):
            self.note(words.BUILTINS[node.id], node, f"uses {node.id}")
        elif node.id in ("__builtins__", "__loader__", "__spec__"):
            self.note(Trick.HIDES_CALLS, node, f"uses {node.id}")
        elif node.id in ("__name__", "__file__") and not self._is_main_guard(node):
            self.note(Trick.LOOKS_AROUND, node, f"uses {node.id}")
        elif node.id == "Model":
            self.note(Trick.CALLS_REFERENCE, node, "uses Model")

    def _is_plain_lookup(self, node: ast.Name) -> bool:
        """`"NAME" not in globals()`, and `open` where files are written to be compiled."""
        if node.id == "open":
            return self.compiles or self.dsl.startswith("triton")
        parent = self.parents.get(node)
        test = self.parents.get(parent) if parent is not None else None
        return node.id == "globals" and isinstance(test, ast.Compare) and isinstance(test.left, ast.Constant)

    def _is_main_guard(self, node: ast.Name) -> bool:
        test = self.parents.get(node)
        return isinstance(test, ast.Compare) and any(self.names.text(c) == "__main__" for c in test.comparators)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        dotted = self.names.dotted(node)
        if dotted is not None:
            self._dotted(dotted, node)
            return
        if node.attr in words.ATTRIBUTES:
            self.note(words.ATTRIBUTES[node.attr], node, f"uses .{node.attr}")
        self.generic_visit(node)

    def _dotted(self, dotted: str, node: ast.AST) -> None:
        """Something of a module, by its full name."""
        last = dotted.rpartition(".")[2]
        if last in words.ATTRIBUTES:
            self.note(words.ATTRIBUTES[last], node, dotted)
        elif dotted in words.FLAGS or dotted.startswith("torch.backends."):
            precise = "matmul" in dotted or "tf32" in dotted
            self.note(Trick.PRECISION if precise else Trick.PATCHES, node, f"{dotted} is for others, too")
        elif dotted.startswith(
            ("torch.multiprocessing", "torch.distributed", "torch.cuda.Stream", "torch.cuda.stream")
        ):
            self._streams(dotted, node)
        elif dotted.startswith(("torch.hub", "torch.load", "torch.save", "torch.serialization", "torch.package")):
            self.note(Trick.ESCAPES, node, dotted)
        elif dotted.startswith("torch.cuda.Event") or dotted.startswith("torch.profiler"):
            self.note(Trick.CLOCKS, node, dotted)
        elif dotted == "torch._C" and self._is_looked_up_by_name(node):
            return  # what is looked up is seen there
        elif words.tells_of_the_judge(dotted):
            self.note(Trick.LOOKS_AROUND, node, dotted)
        elif dotted.startswith("torch.") and self.dsl != "torch" and not words.allowed_of_torch(dotted):
            held = words.is_layer(dotted) or dotted == "torch.nn.functional" or self._is_called_once(node)
            if not held:
                self.note(Trick.CALLS_TORCH, node, dotted)
        elif dotted.startswith("os.") and dotted.split(".")[1] in words.OS:
            self._of_os(dotted, node)
        elif dotted.startswith("ctypes."):
            self._of_ctypes(dotted, node)
        elif dotted == "sys.exit":
            self.note(Trick.FORGES, node, dotted)
        elif dotted.startswith(("triton.testing", "triton.runtime.driver")):
            self.note(Trick.CLOCKS, node, dotted)

    def _is_looked_up_by_name(self, node: ast.AST) -> bool:
        """As in `getattr(torch._C, "name", None)`, which is looked at for the name."""
        call = self.parents.get(node)
        by_name = (
            isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in ("getattr", "hasattr")
        )
        return (
            by_name and isinstance(call, ast.Call) and len(call.args) > 1 and self.names.text(call.args[1]) is not None
        )

    def _is_called_once(self, node: ast.AST) -> bool:
        """Whether it is called when the module is executed or an object built: with constants, before any input."""
        parent = self.parents.get(node)
        if not (isinstance(parent, ast.Call) and parent.func is node):
            return False
        above: ast.AST | None = parent
        while above is not None and not isinstance(above, ast.FunctionDef | ast.Lambda):
            above = self.parents.get(above)
        return above is None or (isinstance(above, ast.FunctionDef) and above.name == "__init__")

    def _streams(self, dotted: str, node: ast.AST) -> None:
        if "cuda" not in dotted:
            self.note(Trick.THREADS, node, dotted)
        elif "torch.cuda.CUDAGraph" not in self.names.used:  # which has to be captured on another stream
            self.note(Trick.UNSYNCHRONISED, node, dotted)

    def _of_os(self, dotted: str, node: ast.AST) -> None:
        if dotted in ("os.environ", "os.environ.get", "os.getenv") and self._asks_for_a_known_variable(node):
            return
        self.note(words.OS[dotted.split(".")[1]], node, dotted)

    def _asks_for_a_known_variable(self, node: ast.AST) -> bool:
        parent = self.parents.get(node)
        if isinstance(parent, ast.Attribute):  # os.environ in os.environ.get
            parent = self.parents.get(parent)
        key: ast.AST | None = None
        if isinstance(parent, ast.Call) and parent.args:
            key = parent.args[0]
        elif isinstance(parent, ast.Subscript):
            key = parent.slice
        return isinstance(key, ast.Constant) and key.value in words.ENVIRONMENT

    def _of_ctypes(self, dotted: str, node: ast.AST) -> None:
        last = dotted.split(".")[1]
        if last in ("CDLL", "PyDLL"):
            parent = self.parents.get(node)
            path = parent.args[0] if isinstance(parent, ast.Call) and parent.args else None
            if isinstance(path, ast.Constant):
                trick = Trick.HIDES_CALLS if path.value is None else Trick.CALLS_TORCH
                self.note(trick, node, f"{dotted}({path.value!r}) is not what it has compiled")
        elif not last.startswith("c_") and last not in (
            "POINTER",
            "byref",
            "py_object",
            "Structure",
            "Array",
            "sizeof",
        ):
            self.note(Trick.HIDES_CALLS if last in ("cdll", "util") else Trick.LOOKS_AROUND, node, dotted)

    # -- calls --------------------------------------------------------------------------------------------------------

    def visit_Call(self, node: ast.Call) -> None:
        function = node.func
        if isinstance(function, ast.Name) and function.id not in self.names.defined:
            self._builtin_call(function.id, node)
        elif isinstance(function, ast.Attribute):
            self._method_call(function, node)
        self.generic_visit(node)

    def _builtin_call(self, name: str, node: ast.Call) -> None:
        if name in ("getattr", "hasattr") and len(node.args) > 1:
            if self.names.text(node.args[1]) is None:
                self.note(Trick.HIDES_CALLS, node, f"{name}() of a name that is not written there")
            elif isinstance(node.args[1], ast.Constant):
                self._getattr(node)
        elif name == "setattr" and not (isinstance(node.args[0], ast.Name) and node.args[0].id == "self"):
            self.note(Trick.PATCHES, node, "setattr() of what is not its own")
        elif name == "type" and len(node.args) == 3:
            self.note(Trick.HIDES_CALLS, node, "makes a class by type()")

    def _getattr(self, node: ast.Call) -> None:
        base, name = self.names.dotted(node.args[0]), self.names.text(node.args[1])
        if base is not None:
            self._dotted(f"{base}.{name}", node)
            if base.partition(".")[0] == "torch" and f"{base}.{name}" not in _INTERNALS and self.dsl != "torch":
                self.note(Trick.HIDES_CALLS, node, f"getattr() instead of {base}.{name}")
        elif name in words.computing_methods() and self.dsl != "torch":
            self.note(Trick.HIDES_CALLS, node, f"getattr() of .{name}")
        elif name in words.ATTRIBUTES:
            self.note(words.ATTRIBUTES[name], node, f"getattr() of .{name}")

    def _method_call(self, function: ast.Attribute, node: ast.Call) -> None:
        dotted = self.names.dotted(function)
        above = isinstance(function.value, ast.Call) and ast.unparse(function.value.func) == "super"
        if above and function.attr not in ("__init__", "__call__"):
            self.note(Trick.CALLS_REFERENCE, node, f"super().{function.attr}()")
        if dotted is not None and dotted.startswith("subprocess."):
            self._program(dotted, node)
        elif function.attr == "data_ptr":
            self._address(node)
        elif function.attr == "add_pre_run_hook":
            self.note(Trick.HIDES_CALLS, node, "runs Python when a kernel is launched")
        for keyword in node.keywords:
            if keyword.arg in ("pre_hook", "post_hook"):
                self.note(Trick.HIDES_CALLS, node, "runs Python when a kernel is launched")

    def _program(self, dotted: str, node: ast.Call) -> None:
        command = node.args[0] if node.args else None
        shell = any(k.arg == "shell" for k in node.keywords)
        first = command.elts[0] if isinstance(command, ast.List | ast.Tuple) and command.elts else None
        text = self.names.text(first) if first is not None else None
        named = text is None or words.is_compiler(text)
        if shell or first is None or not named or dotted not in _RUNS:
            self.note(Trick.ESCAPES, node, f"{dotted}() of what is not a compiler")

    def _address(self, node: ast.Call) -> None:
        """Addresses are for kernels; one that is compared or kept tells tensors apart."""
        parent = self.parents.get(node)
        if isinstance(parent, ast.Compare | ast.Subscript | ast.Dict | ast.Set | ast.FormattedValue):
            self.note(Trick.REPLAYS, node, "tells tensors apart by their address")
        elif isinstance(parent, ast.Tuple):
            above = self.parents.get(parent)
            if not isinstance(above, ast.Call | ast.Starred):
                self.note(Trick.REPLAYS, node, "tells tensors apart by their address")

    # -- what is written to -------------------------------------------------------------------------------------------

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            self._target(target)
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._target(node.target)
        self.generic_visit(node)

    def visit_Delete(self, node: ast.Delete) -> None:
        for target in node.targets:
            self._target(target)
        self.generic_visit(node)

    def _target(self, target: ast.expr) -> None:
        if isinstance(target, ast.Tuple | ast.List):
            for part in target.elts:
                self._target(part)
        while isinstance(target, ast.Subscript):
            target = target.value
        if not isinstance(target, ast.Attribute):
            return
        dotted = self.names.dotted(target)
        if dotted is not None and not dotted.startswith(("torch.backends.", "os.environ")):
            self.note(Trick.PATCHES, target, f"writes to {dotted}")
        elif target.attr in ("__code__", "__class__", "__dict__", "__call__"):
            self.note(Trick.PATCHES, target, f"writes to .{target.attr}")

    # -- definitions --------------------------------------------------------------------------------------------------

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if is_jit(node, self.names):
            self._kernel(node)
            return
        if node.name in words.METHODS:
            self.note(words.METHODS[node.name], node, f"defines {node.name}")
        self.generic_visit(node)

    def _kernel(self, node: ast.FunctionDef) -> None:
        """A kernel calls its language, and other kernels: what else a compiler would refuse, an interpreter runs."""
        given = {a.arg for a in (*node.args.args, *node.args.kwonlyargs)}
        for call in (n for n in ast.walk(node) if isinstance(n, ast.Call)):
            function = call.func
            dotted = self.names.dotted(function)
            if dotted is not None:
                known = dotted.startswith("triton.")
            elif isinstance(function, ast.Name):
                known = function.id in self.names.kernels or function.id in words.IN_KERNELS or function.id in given
            else:
                root = function
                while isinstance(root, ast.Attribute | ast.Subscript | ast.Call):
                    root = root.func if isinstance(root, ast.Call) else root.value
                outer = isinstance(root, ast.Name) and root.id in self.names.globals and root.id not in given
                known = not outer and self.names.dotted(root) in (None, "triton.language", "triton")
            if not known:
                self.note(Trick.HIDES_CALLS, call, f"its kernel calls {ast.unparse(function)}, which is no kernel")

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self.note(Trick.THREADS, node, "is asynchronous")

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for base in node.bases:
            dotted = self.names.dotted(base) or ""
            if dotted in ("torch.Tensor", "torch.nn.Parameter", "torch.nn.parameter.Parameter"):
                self.note(Trick.SUBCLASS, node, f"{node.name} is a {dotted}")
            elif node.name == "ModelNew" and dotted != "torch.nn.Module":
                own = isinstance(base, ast.Name) and base.id in self.names.defined and base.id != "Model"
                if not own:
                    self.note(Trick.CALLS_REFERENCE, node, f"ModelNew inherits from {ast.unparse(base)}")
        if node.keywords:
            self.note(Trick.HIDES_CALLS, node, f"{node.name} has a metaclass")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str) and looks_like_cpp(node.value):
            for trick, line, text in read_cpp(node.value, cuda=self.dsl != "cpp"):
                self.note(trick, _At(node.lineno + line), text)


class _At(ast.AST):
    """A place in the file."""

    def __init__(self, lineno: int) -> None:
        super().__init__()
        self.lineno = lineno


_FOR_FILES = frozenset({"hashlib", "json", "os", "tempfile"})
_RUNS = frozenset({"subprocess.run", "subprocess.check_call", "subprocess.check_output"})
_INTERNALS = frozenset({"torch._C._cuda_getCurrentRawStream", "torch._C._StaticCudaLauncher"})


def summary(findings: list[Finding]) -> str:
    """The first findings, in a sentence."""
    shown = "; ".join(map(str, findings[:3]))
    return f"{shown}; and {len(findings) - 3} more" if len(findings) > 3 else shown


def tricks(findings: list[Finding]) -> Iterator[Trick]:
    """Each trick once, those seen most first."""
    order = [f.trick for f in findings]
    yield from sorted(set(order), key=lambda t: (-order.count(t), order.index(t)))
