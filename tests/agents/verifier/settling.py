"""What processes leave behind, read when it is there to be read: on a busy machine the last of it takes a while."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")

_WITHIN_S = 60.0
_PAUSE_S = 0.05


def eventually(read: Callable[[], _T], holds: Callable[[_T], bool]) -> _T:
    """The first reading that holds; the last one, if none does within a minute."""
    deadline = time.monotonic() + _WITHIN_S
    found = read()
    while not holds(found) and time.monotonic() < deadline:
        time.sleep(_PAUSE_S)
        found = read()
    return found


def settled(read: Callable[[], _T]) -> _T:
    """A reading that four more in a row confirm; the last one, if none is within a minute."""
    same, last = 0, read()

    def again() -> _T:
        nonlocal same, last
        found = read()
        same, last = (same + 1 if found == last else 0), found
        return found

    return eventually(again, lambda _: same >= 4)
