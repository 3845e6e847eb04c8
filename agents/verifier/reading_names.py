"""The names of a module: what was imported under which name, what is defined here, and which strings are constants."""

from __future__ import annotations

import ast
from functools import cached_property


class Names:
    """What names stand for in one module."""

    def __init__(self, tree: ast.Module) -> None:
        self.tree = tree
        self.aliases: dict[str, str] = {}
        self.imported: list[str] = []
        self.defined: set[str] = set()
        self.constants: dict[str, str] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    self.imported.append(alias.name)
                    self.aliases[alias.asname or alias.name.partition(".")[0]] = (
                        alias.name if alias.asname else alias.name.partition(".")[0]
                    )
            elif isinstance(node, ast.ImportFrom):
                self.imported.append(node.module or "")
                for alias in node.names:
                    self.aliases[alias.asname or alias.name] = f"{node.module}.{alias.name}"
            elif isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
                self.defined.add(node.name)
        for node in tree.body:
            if (
                isinstance(node, ast.Assign)
                and isinstance(node.value, ast.Constant)
                and isinstance(node.value.value, str)
            ):
                self.constants |= {t.id: node.value.value for t in node.targets if isinstance(t, ast.Name)}
        # Another name for a module, or for what is in one, is that: `f = torch.nn.functional`.
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
                dotted = self.dotted(node.value)
                if dotted is not None:
                    self.aliases.setdefault(node.targets[0].id, dotted)
        self.defined -= self.aliases.keys()
        functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
        self.kernels = {f.name for f in functions if is_jit(f, self)}
        assigned = [n for s in tree.body if isinstance(s, ast.Assign) for t in s.targets for n in ast.walk(t)]
        self.globals = {n.id for n in assigned if isinstance(n, ast.Name)} | (self.defined - self.kernels)

    def dotted(self, node: ast.AST) -> str | None:
        """The full name of what is reached from a module by attributes, or None."""
        if isinstance(node, ast.Name):
            return self.aliases.get(node.id)
        if isinstance(node, ast.Attribute):
            base = self.dotted(node.value)
            return None if base is None else f"{base}.{node.attr}"
        return None

    def text(self, node: ast.AST) -> str | None:
        """The string that an expression always is, or None."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return node.value
        return self.constants.get(node.id) if isinstance(node, ast.Name) else None

    @cached_property
    def used(self) -> set[str]:
        """Every full name in the module."""
        return {d for n in ast.walk(self.tree) if (d := self.dotted(n)) is not None}


def is_jit(node: ast.FunctionDef, names: Names) -> bool:
    """Whether that is a kernel in a language of its own."""
    decorators = [d.func if isinstance(d, ast.Call) else d for d in node.decorator_list]
    return any(names.dotted(d) in ("triton.jit", "triton.runtime.jit") for d in decorators)
