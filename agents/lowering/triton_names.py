"""Names in generated Triton: the sketch's own where they can be, unique in a function."""

from __future__ import annotations

import keyword
from collections.abc import Iterator
from contextlib import contextmanager

from akg_dynamo.agents.lowering.triton_helpers import HELPERS

_TAKEN = frozenset(("tl", "triton", "libdevice", "range", "float", "min", "max", *HELPERS))


def python_name(name: str) -> str:
    """A sketch's name as an identifier that means nothing else in a kernel."""
    return f"{name}_" if keyword.iskeyword(name) or name in _TAKEN else name


class Names:
    """Hands out the names of one function.

    A name is free again after the loop that it was given in. Inside, none is given twice: what an outer body and a
    loop both assign is a value that the loop carries, in Triton.
    """

    def __init__(self, taken: set[str]) -> None:
        self._scopes = [set(taken)]

    def fresh(self, wanted: str) -> str:
        """`wanted`, or with a number if it is gone."""
        base = python_name(wanted)
        name, count = base, 0
        while any(name in scope for scope in self._scopes):
            count += 1
            name = f"{base}_{count}"
        self._scopes[-1].add(name)
        return name

    @contextmanager
    def loop(self) -> Iterator[None]:
        """The names of a loop's body."""
        self._scopes.append(set())
        yield
        self._scopes.pop()
