"""What a subgraph's outputs should be near: eager's values, the oracle's, and what is open between the two.

The oracle is fp64; for fp64 outputs it has twice the digits (`wide_oracle`), and where it cannot, the report says why.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch

from akg_dynamo.agents.verifier.decomposed import by_decomposition
from akg_dynamo.agents.verifier.evaluate import Evaluator, is_float, jumps, variants
from akg_dynamo.agents.verifier.exactness import is_exact
from akg_dynamo.agents.verifier.numerics import Expected, Rule
from akg_dynamo.agents.verifier.shapes import elements
from akg_dynamo.agents.verifier.wide_oracle import MOST_ELEMENTS, NoWideOracle, halves, widen
from akg_dynamo.core.types import Subgraph
from akg_dynamo.fusion.reference import reference

Tensors = Sequence[torch.Tensor]
REFUSALS = (RuntimeError, IndexError, ValueError, ZeroDivisionError)
"""What eager raises for inputs that it does not take."""
_T = TypeVar("_T")


def rule_of(sub: Subgraph, numerics: str) -> Rule:
    """What "bounded", "fast" and "eager" ask of a kernel of that subgraph."""
    if numerics == "eager":
        return Rule.EXACT if is_exact(sub) else Rule.STAGED
    return Rule(numerics)


class Truth:
    """Evaluates one subgraph. `frugal`: every tensor is freed as it dies, the widened inputs among them."""

    def __init__(self, sub: Subgraph, numerics: str) -> None:
        self.sub = sub
        self.numerics = numerics
        self.rule = rule_of(sub, numerics)
        self.specs = sub.output_specs
        self.jumps = jumps(sub) if self.rule is not Rule.EXACT else []
        self.run_eager = reference(sub)
        self.no_wide = ""  # why fp64 outputs have no oracle of more digits, once that was tried
        self._oracle = reference(sub, upcast=True)
        self._staged = Evaluator(sub, torch.float64, staged=True)
        self._frugal_oracle = Evaluator(sub, torch.float64)
        self._single = Evaluator(sub, torch.float32)
        self._overflowing = Evaluator(sub, torch.float64, overflows=True)
        self._is_double = any(s.dtype == "float64" for s in self.specs)

    def eager(self, views: Tensors, sizes: Mapping[str, int]) -> tuple[torch.Tensor, ...]:
        """The original operators' values."""
        return self.run_eager(*views, *self._symbols(sizes))

    def oracle(self, views: Tensors, sizes: Mapping[str, int], *, frugal: bool = False) -> tuple[torch.Tensor, ...]:
        """Theirs in fp64."""
        if self.rule is Rule.STAGED:
            return self._staged(views, sizes)
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
        if self.rule is Rule.EXACT:
            return [Expected(e, e) for e in eager]
        wide = self._wide_oracle(views, sizes) if self._is_double else None
        oracle, low, moved = wide or (*self._plain_oracle(eager, views, sizes, frugal), [])
        if wide is None and self.jumps:
            run = self._staged if self.rule is Rule.STAGED else self._frugal_oracle
            still, moved = variants(self.sub, views, sizes, self.jumps, oracle=run)
            oracle = still if oracle is not eager or moved else oracle

        @functools.cache
        def decomposed() -> tuple[torch.Tensor | None, ...]:
            arguments = [*_wide(views), *self._symbols(sizes)]
            return by_decomposition(self._oracle, arguments) or (None,) * len(self.specs)

        @functools.cache
        def overflowing() -> tuple[torch.Tensor | None, ...]:
            if self.rule is Rule.STAGED:
                return (None,) * len(self.specs)  # what is rounded where eager rounds overflows where it does
            return self._overflowing(views, sizes)

        found = []
        for i, (e, o) in enumerate(zip(eager, oracle, strict=True)):
            others = [m[i] for m in moved]
            found.append(Expected(e, o, others, low[i], decomposed=nth(decomposed, i), overflowing=nth(overflowing, i)))
        if wide is None and (self._is_double or any(s.dtype == "complex128" for s in self.specs)):
            self._double_errors(views, sizes, found)
        return found

    def _plain_oracle(
        self, eager: tuple[torch.Tensor, ...], views: Tensors, sizes: Mapping[str, int], frugal: bool
    ) -> tuple[tuple[torch.Tensor, ...], list[torch.Tensor | None]]:
        inexact = any(is_float(s) or s.dtype.startswith("complex") for s in self.specs)
        oracle = self.oracle(views, sizes, frugal=frugal) if inexact else eager
        return oracle, [None] * len(self.specs)

    def _wide_oracle(
        self, views: Tensors, sizes: Mapping[str, int]
    ) -> tuple[tuple[torch.Tensor, ...], list[torch.Tensor | None], list[tuple[torch.Tensor, ...]]] | None:
        """The oracle in two halves, and what is undecided; None where there is none, for a reason that is kept."""
        if self.no_wide:
            return None
        if elements(self.sub, sizes) > MOST_ELEMENTS:
            return None
        widened = [widen(t) if t.dtype == torch.float64 else t for t in _wide(views)]
        moved: list[tuple[torch.Tensor, ...]] = []
        try:
            if self.jumps:
                found, moved = variants(self.sub, views, sizes, self.jumps, oracle=self._frugal_oracle, widened=widened)
            else:
                found = self._frugal_oracle(widened, sizes)
        except NoWideOracle as lacks:
            self.no_wide = f"no oracle of more digits: {lacks}"
            return None
        pairs = [halves(t) for t in found]
        return tuple(h for h, _ in pairs), [low for _, low in pairs], [tuple(halves(t)[0] for t in m) for m in moved]

    def _double_errors(self, original: Tensors, sizes: Mapping[str, int], found: list[Expected]) -> None:
        """Eager's error in float64: from the same program in float32, and from its own on reversed inputs."""
        backwards = self.eager([t.flip(tuple(range(t.dim()))) for t in original], sizes)
        views = [_cut_to_single(t) for t in original]
        single = self._single(views, sizes)
        double = self._oracle(*_wide(views), *self._symbols(sizes))
        for i, (wanted, s, d) in enumerate(zip(found, single, double, strict=True)):
            if wanted.eager.dtype in (torch.float64, torch.complex128):
                wanted.oracle = wanted.eager
                error = _distance(s.to(d.dtype), d) * 2.0**-29
                other = _distance(backwards[i].flip(tuple(range(s.dim()))), wanted.eager)
                bound = 1e-9 * wanted.eager.abs().nan_to_num(0.0, 0.0, 0.0).amax() if s.numel() else 0.0
                if bool((_real(other).nan_to_num(0.0) <= bound).all()):  # else its values depend on positions
                    error = _larger(error, other)
                wanted.eager_error = 1.5 * error

    def _symbols(self, sizes: Mapping[str, int]) -> list[int]:
        return [sizes[s.name] for s in self.sub.symbols]


def _wide(views: Tensors) -> list[Any]:
    return [t.double() if t.is_floating_point() else t.to(torch.complex128) if t.is_complex() else t for t in views]


def _cut_to_single(t: torch.Tensor) -> torch.Tensor:
    if t.dtype == torch.float64:
        return t.float().double()
    return t.to(torch.complex64).to(torch.complex128) if t.dtype == torch.complex128 else t


def _real(t: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(t) if t.is_complex() else t


def _distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """|a - b|, of complex numbers the real parts' and the imaginary ones'."""
    if not a.is_complex():
        return (a - b).abs()
    return torch.view_as_complex(torch.view_as_real(a.resolve_conj() - b.resolve_conj()).abs())


def _larger(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    found = torch.fmax(_real(a), _real(b))
    return torch.view_as_complex(found.contiguous()) if a.is_complex() else found


def nth(outputs: Callable[[], tuple[_T, ...]], i: int) -> Callable[[], _T]:
    """The i-th of what is only computed when it is asked for."""
    return lambda: outputs()[i]
