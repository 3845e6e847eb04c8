"""Names in generated Triton: the sketch's own where they can be, unique in a function."""

from __future__ import annotations

import keyword

from akg_dynamo.agents.lowering.triton_helpers import HELPERS

_TAKEN = frozenset(("tl", "triton", "libdevice", "range", "float", "min", "max", *HELPERS))


def python_name(name: str) -> str:
    """A sketch's name as an identifier that means nothing else in a kernel."""
    return f"{name}_" if keyword.iskeyword(name) or name in _TAKEN else name


class Names:
    """Hands out the names of one function. (A name bound once cannot become a loop's carried value by accident.)"""

    def __init__(self, taken: set[str]) -> None:
        self._taken = set(taken)

    def fresh(self, wanted: str) -> str:
        """`wanted`, or with a number if it is gone."""
        base = python_name(wanted)
        name, count = base, 0
        while name in self._taken:
            count += 1
            name = f"{base}_{count}"
        self._taken.add(name)
        return name
