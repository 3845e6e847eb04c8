"""What eager and the oracle gave for a case, kept for the next candidate of the same task that is judged by that seed.

A hundred candidates of one task cost one evaluation of the oracle for each of its sizes and kinds of inputs. Where a
batch is judged by one seed, that is; candidates do not see it: each runs where no earlier one has been.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

import torch

from akg_dynamo.agents.verifier.numerics import Expected

_LIMIT_BYTES = 64 << 20
_MOST = 256  # cases, so that small ones do not fill that room for hours: no task has many more
_SHARE = 8  # one case takes no more than that part of it


@dataclass(frozen=True)
class Known:
    """What each output should be near, and what the oracle was not."""

    outputs: list[Expected]
    no_wide: str
    n_bytes: int


class Remembered:
    """The cases used last, as many as there is room for."""

    def __init__(self, limit_bytes: int = _LIMIT_BYTES) -> None:
        self.limit_bytes = limit_bytes
        self.n_bytes = 0
        self._known: OrderedDict[Hashable, Known] = OrderedDict()

    def get(self, key: Hashable) -> Known | None:
        """What is known of that case."""
        found = self._known.get(key)
        if found is not None:
            self._known.move_to_end(key)
        return found

    def put(self, key: Hashable, outputs: list[Expected], no_wide: str, input_bytes: int) -> None:
        """Keep it, and forget what was not asked for longest."""
        n_bytes = input_bytes + sum(_bytes(t) for o in outputs for t in _tensors(o))
        if n_bytes * _SHARE > self.limit_bytes or key in self._known:
            return
        self._known[key] = Known(outputs, no_wide, n_bytes)
        self.n_bytes += n_bytes
        while self.n_bytes > self.limit_bytes or len(self._known) > _MOST:
            self.n_bytes -= self._known.popitem(last=False)[1].n_bytes


def _tensors(o: Expected) -> list[torch.Tensor]:
    return [t for t in (o.eager, o.oracle, *o.variants, o.low, o.eager_error) if t is not None]


def _bytes(t: torch.Tensor) -> int:
    return t.numel() * t.element_size()
