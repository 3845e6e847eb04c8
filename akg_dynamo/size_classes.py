"""Which sizes a graph's kernels serve: those of the classes that they were judged for.

A kernel for symbolic sizes is judged at members of a class, closed above within reach of the size seen first
(`cache.shape_class`), and timed at that size. The forward that runs it begins with

    if args[0] > 4096: return beyond(args)

and the first call beyond has the graph's kernels judged for the class of its own sizes. As when Dynamo compiles again,
that call takes as long as a first one; but the graph is the one there is, no guard is added (a model whose guards are
dropped is served as well), and a kernel that did not pay at the sizes before is asked again. Nothing is cut anew.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from akg_dynamo.cache import shape_class
from akg_dynamo.core.types import Subgraph
from akg_dynamo.executor import BoxedForward
from akg_dynamo.fusion.extract import Cut
from akg_dynamo.fusion.symbols import SymbolSource

log = logging.getLogger(__name__)

_MOST = 8
"""Classes of one graph; sizes beyond all of them stay with torch. Each reaches eight times as far as its sizes."""

Sizes = Mapping[SymbolSource, int]


def alike(cuts: Sequence[Cut]) -> list[Cut]:
    """The cuts, those that are the same operation at the same sizes: the largest that any of them was seen with.

    They share a kernel, and it is judged once.
    """
    largest: dict[str, Subgraph] = {}
    for cut in cuts:
        sub = largest.setdefault(cut.subgraph.digest, cut.subgraph)
        symbols = (replace(a, hint=max(a.hint, b.hint)) for a, b in zip(sub.symbols, cut.subgraph.symbols, strict=True))
        largest[cut.subgraph.digest] = replace(sub, symbols=tuple(symbols))
    return [replace(cut, subgraph=largest[cut.subgraph.digest]) for cut in cuts]


def seen_with(cuts: Sequence[Cut], sizes: Sizes) -> list[Cut]:
    """The cuts as if the graph had been traced at these sizes."""
    found = []
    for cut in cuts:
        named = zip(cut.subgraph.symbols, cut.symbols, strict=True)
        symbols = tuple(replace(symbol, hint=sizes[source]) for symbol, source in named)
        found.append(replace(cut, subgraph=replace(cut.subgraph, symbols=symbols)))
    return alike(found)


def limits(cuts: Sequence[Cut]) -> dict[SymbolSource, int]:
    """The largest size that all kernels were judged for, by symbol, where the tracer knows of none itself."""
    found: dict[SymbolSource, int] = {}
    for cut in cuts:
        ranges = shape_class.of(cut.subgraph).symbols
        for symbol, source, judged in zip(cut.subgraph.symbols, cut.symbols, ranges, strict=True):
            if symbol.hi is None or judged.hi < symbol.hi:
                found[source] = min(judged.hi, found.get(source, judged.hi))
    return found


class SizeClasses:
    """What a graph runs beyond the sizes that its first kernels were judged for.

    cuts: what was cut out of the graph, as it was traced.
    make: a forward with kernels judged for the cuts that it is given, which are `cuts` at other sizes.
    without: a forward of torch's operators alone.
    """

    def __init__(
        self,
        graph: fx.Graph,
        cuts: Sequence[Cut],
        make: Callable[[Sequence[Cut]], BoxedForward],
        without: Callable[[], BoxedForward],
    ) -> None:
        self._placeholders = {n: i for i, n in enumerate(n for n in graph.nodes if n.op == "placeholder")}
        self._cuts = cuts
        self._make = make
        self._without = without
        self._torch: BoxedForward | None = None
        self._sources = list(dict.fromkeys(source for cut in cuts for source in cut.symbols))
        self._classes: list[tuple[Mapping[SymbolSource, int], BoxedForward]] = []
        self._lock = threading.Lock()

    def beyond(self, args: list[Any], /) -> Sequence[Any]:
        """A call with sizes outside the class of whoever was called."""
        return self._forward_for({source: self._value(source, args) for source in self._sources})(args)

    def _value(self, source: SymbolSource, args: Sequence[Any]) -> int:
        value = args[self._placeholders[source.node]]
        value = value if source.dim is None else value.size(source.dim)
        return int((value - source.offset) // source.scale)

    def _forward_for(self, sizes: Sizes) -> BoxedForward:
        with self._lock:
            for most, forward in self._classes:
                if all(sizes[source] <= hi for source, hi in most.items()):
                    return forward
            if len(self._classes) < _MOST and not _is_capturing():
                cuts = seen_with(self._cuts, sizes)
                forward = self._made(cuts)
                self._classes.append((limits(cuts), forward))
                return forward
            if self._torch is None:
                self._torch = self._without()
            return self._torch

    def _made(self, cuts: Sequence[Cut]) -> BoxedForward:
        text = ", ".join(f"{source.text()} <= {hi}" for source, hi in limits(cuts).items())
        log.info("sizes beyond those that kernels were judged for: they are judged for %s", text)
        try:
            return self._make(cuts)
        except Exception:
            # The model runs: what went wrong with its kernels is no reason to stop it.
            log.exception("no kernels for %s: torch's operators run there", text)
            return self._without()


def _is_capturing() -> bool:
    """Whether a CUDA graph is being captured, during which no kernel can be loaded."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
