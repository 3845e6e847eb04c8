"""A program evaluated by torch's decompositions: another formula for the same values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch._decomp import decomposition_table
from torch.utils._python_dispatch import TorchDispatchMode


class _Decomposing(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own
    """Runs every operator that has a decomposition by it, and so on down to operators that have none."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        decomposition = decomposition_table.get(func)
        if decomposition is not None:
            with self:
                result = decomposition(*args, **(kwargs or {}))
            if result is not NotImplemented:
                return result
        return func(*args, **(kwargs or {}))


def by_decomposition(
    program: Callable[..., tuple[torch.Tensor, ...]], arguments: Sequence[Any]
) -> tuple[torch.Tensor, ...] | None:
    """The program's outputs that way, or None where a decomposition does not take its operands."""
    try:
        with torch.no_grad(), _Decomposing():  # type: ignore[no-untyped-call]  # torch's own
            return program(*arguments)
    except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError, AssertionError, RecursionError):
        return None


def warm_up() -> None:
    """Evaluate a small one: torch loads much of itself for the first, which takes half a second."""
    few = torch.ones(2, 4, dtype=torch.float64)
    by_decomposition(lambda x: (torch.ops.aten.native_layer_norm.default(x, [4], None, None, 1e-5)[0],), [few])
