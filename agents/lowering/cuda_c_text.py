"""Text of a CUDA C function in the making: statements in nested bodies, names, barriers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from akg_dynamo.agents.lowering.index import KEYWORDS
from akg_dynamo.agents.lowering.prelude import CUDA, definitions

_WORDS = """
    blockDim blockIdx clock gridDim int8_t int16_t int32_t int64_t isfinite isinf isnan main shared threadIdx uint8_t
    uint16_t uint32_t uint64_t warpSize
"""
_RESERVED = KEYWORDS | frozenset(_WORDS.split())
_CONSTANT = re.compile(r"\s*const [\w ]+ (\w+) = ")
_BARRIER = "__syncthreads();"


class Text:
    """Lines, and the names that they may use; a name is free again after the body that it was given in."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.depth = 1
        self._scopes: list[set[str]] = [set()]

    def fresh(self, wanted: str, *, everywhere: bool = False) -> str:
        """`wanted` as an identifier that means nothing else here, or with a number if it is gone.

        everywhere: it stays taken in the whole function.
        """
        base = wanted
        if base in _RESERVED or base in definitions(CUDA) or base.startswith("__"):
            base += "_"
        name, count = base, 0
        while any(name in scope for scope in self._scopes):
            count += 1
            name = f"{base}_{count}"
        self._scopes[0 if everywhere else -1].add(name)
        return name

    def line(self, text: str) -> None:
        """One statement."""
        self.lines.append("  " * self.depth + text)

    def barrier(self) -> None:
        """The block waits for all of its threads."""
        if not self.lines or self.lines[-1] != "  " * self.depth + _BARRIER:
            self.line(_BARRIER)

    @contextmanager
    def body(self, head: str) -> Iterator[None]:
        """What follows is the body of `head`, a loop or a condition; "" for none."""
        if not head:
            yield
            return
        self.line(f"{head} {{")
        self.depth += 1
        self._scopes.append(set())
        yield
        self._scopes.pop()
        self.depth -= 1
        self.line("}")

    def drop_unused(self) -> None:
        """Takes out constants that nothing reads: lanes and the like are named before it is known."""
        for at in reversed(range(len(self.lines))):
            found = _CONSTANT.match(self.lines[at])
            if found is not None and not self._mentioned(found[1], at):
                del self.lines[at]

    def _mentioned(self, name: str, at: int) -> bool:
        depth, word = _indent(self.lines[at]), re.compile(rf"\b{name}\b")
        for line in self.lines[at + 1 :]:
            if _indent(line) < depth:
                return False
            if word.search(line):
                return True
        return False


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
