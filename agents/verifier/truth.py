"""What a subgraph's outputs should be near: eager's values, the fp64 oracle's, and what is open between the two."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch

from akg_dynamo.agents.verifier.decomposed import by_decomposition
from akg_dynamo.agents.verifier.evaluate import Evaluator, is_float, jumps, variants
from akg_dynamo.agents.verifier.numerics import Expected
from akg_dynamo.core.types import Subgraph
from akg_dynamo.fusion.reference import reference

Tensors = Sequence[torch.Tensor]
REFUSALS = (RuntimeError, IndexError, ValueError, ZeroDivisionError)
"""What eager raises for inputs that it does not take."""
_T = TypeVar("_T")


class Truth:
    """Evaluates one subgraph. `frugal`: every tensor is freed as it dies, the widened inputs among them."""

    def __init__(self, sub: Subgraph, numerics: str) -> None:
        self.sub = sub
        self.numerics = numerics
        self.specs = sub.output_specs
        self.jumps = jumps(sub) if numerics != "eager" else []
        self.run_eager = reference(sub)
        self._oracle = reference(sub, upcast=True)
        self._frugal_oracle = Evaluator(sub, torch.float64)
        self._single = Evaluator(sub, torch.float32)

    def eager(self, views: Tensors, sizes: Mapping[str, int]) -> tuple[torch.Tensor, ...]:
        """The original operators' values."""
        return self.run_eager(*views, *self._symbols(sizes))

    def oracle(self, views: Tensors, sizes: Mapping[str, int], *, frugal: bool = False) -> tuple[torch.Tensor, ...]:
        """Theirs in fp64."""
        if frugal:
            return self._frugal_oracle(views, sizes)
        return self._oracle(*_wide(views), *self._symbols(sizes))

    def absolute(self, views: Tensors, sizes: Mapping[str, int], *, frugal: bool = False) -> tuple[torch.Tensor, ...]:
        """The oracle on absolute values."""
        return self.oracle([t.abs() if t.is_floating_point() else t for t in views], sizes, frugal=frugal)

    def expected(
        self, eager: tuple[torch.Tensor, ...], views: Tensors, sizes: Mapping[str, int], *, frugal: bool = False
    ) -> list[Expected]:
        """What each output should be near, where eager's are `eager`."""
        oracle = eager
        if self.numerics != "eager" and any(is_float(s) for s in self.specs):
            oracle = self.oracle(views, sizes, frugal=frugal)
        moved: list[tuple[torch.Tensor, ...]] = []
        if self.jumps:
            still, moved = variants(self.sub, views, sizes, self.jumps)
            oracle = still if oracle is not eager or moved else oracle

        @functools.cache
        def decomposed() -> tuple[torch.Tensor | None, ...]:
            arguments = [*_wide(views), *self._symbols(sizes)]
            return by_decomposition(self._oracle, arguments) or (None,) * len(self.specs)

        found = []
        for i, (e, o) in enumerate(zip(eager, oracle, strict=True)):
            found.append(Expected(e, o, [m[i] for m in moved], decomposed=nth(decomposed, i)))
        if any(s.dtype == "float64" for s in self.specs) and self.numerics != "eager":
            self._double_errors(views, sizes, found)
        return found

    def _double_errors(self, original: Tensors, sizes: Mapping[str, int], found: list[Expected]) -> None:
        """Eager's error in float64: from the same program in float32, and from its own on reversed inputs."""
        backwards = self.eager([t.flip(tuple(range(t.dim()))) for t in original], sizes)
        views = [t.float().double() if t.dtype == torch.float64 else t for t in original]
        single = self._single(views, sizes)
        double = self.oracle(views, sizes)
        for i, (wanted, s, d) in enumerate(zip(found, single, double, strict=True)):
            if wanted.eager.dtype == torch.float64:
                wanted.oracle = wanted.eager
                error = (s.double() - d).abs() * 2.0**-29
                other = (backwards[i].flip(tuple(range(s.dim()))) - wanted.eager).abs()
                bound = 1e-9 * wanted.eager.abs().nan_to_num(0.0, 0.0, 0.0).amax() if s.numel() else 0.0
                if bool((other.nan_to_num(0.0) <= bound).all()):  # else its values depend on positions
                    error = torch.fmax(error, other)
                wanted.eager_error = 1.5 * error

    def _symbols(self, sizes: Mapping[str, int]) -> list[int]:
        return [sizes[s.name] for s in self.sub.symbols]


def _wide(views: Tensors) -> list[Any]:
    return [t.double() if t.is_floating_point() else t for t in views]


def nth(outputs: Callable[[], tuple[_T, ...]], i: int) -> Callable[[], _T]:
    """The i-th of what is only computed when it is asked for."""
    return lambda: outputs()[i]
