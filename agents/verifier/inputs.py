"""Inputs: which values are tried, and which integers are positions.

Values are windows, at random places, into pools drawn once: at 32 seeds a judge that drew every number afresh would
spend its time drawing.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from akg_dynamo.agents.verifier.shapes import storage_elements, value, values
from akg_dynamo.core.types import Arg, OpNode, Ref, Subgraph, TensorSpec, TorchConst

ADVERSARIAL = ("denormal", "huge", "sorted", "constant", "low rank")
KINDS = ("normal", "wide", "offset", "dyadic", "positive", "nan", "inf", *ADVERSARIAL)
"""normal: N(0, 1). wide: magnitudes over many binades. offset: N(0, 1) around a large mean, so that differences cancel.
dyadic: a few values with many ties, whose sums are exact. positive: |N(0, 1)| + 0.1. nan, inf: normal with a few
special values (NaN, or ±Inf and ±0). denormal: all below the smallest normal number. huge: so large that the fourth
power leaves the range. sorted: ascending in memory. constant: one value throughout an input. low rank: rows that are
multiples of one another."""

_HUGE = {torch.float64: 2.0**300, torch.float32: 2.0**40, torch.bfloat16: 2.0**40, torch.float16: 2.0**5}
_CONSTANTS = (0.5, 1.0, -1.5, 3.0, 0.1)
_POOL = 1_048_573  # a prime: no window lines up with a power of two
_SMALL_POOL = 65_537
_HOST = torch.device("cpu")


@dataclass(frozen=True)
class Range:
    """Valid integers for one input: lo <= x < hi."""

    lo: int
    hi: int


class Drawer:
    """Draws a subgraph's inputs; everything follows from the seed."""

    def __init__(self) -> None:
        self._pools: dict[tuple[str, torch.dtype, int, torch.device], torch.Tensor] = {}

    def _pool(self, kind: str, dtype: torch.dtype, size: int, device: torch.device = _HOST) -> torch.Tensor:
        key = (kind, dtype, size, device)
        if key not in self._pools and device != _HOST:
            self._pools[key] = self._pool(kind, dtype, size).to(device)
        elif key not in self._pools:
            generator = torch.Generator().manual_seed(20_011)
            real = torch.float64 if dtype == torch.float64 else torch.float32
            x = torch.randn(size, generator=generator, dtype=real)
            narrow = dtype == torch.float16
            if kind == "wide":
                spread = 6 if narrow else 24
                x *= torch.exp2((torch.rand(size, generator=generator, dtype=real) - 0.5) * spread)
            elif kind == "offset":
                x += 4 if narrow or dtype == torch.bfloat16 else 16
            elif kind == "dyadic":
                choices = torch.tensor([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 1.0, 2.0], dtype=real)
                x = choices[torch.randint(8, (size,), generator=generator)]
            elif kind == "positive":
                x = x.abs() + 0.1
            elif kind == "denormal":
                x = x.to(torch.float64) * (torch.finfo(dtype).smallest_normal / 8)
            elif kind == "huge":
                x *= _HUGE.get(dtype, 4.0)
            self._pools[key] = x.to(dtype)
        return self._pools[key]

    def fill_pools(self, dtype: torch.dtype, device: torch.device = _HOST) -> None:
        """Draw the pools of one dtype ahead of need."""
        for kind in ("normal", "dyadic", "wide", "offset"):
            for size in (_SMALL_POOL, _POOL):
                self._pool(kind, dtype, size, device)

    def _floats(  # noqa: PLR0917 - what `_elements` was given
        self, n: int, dtype: torch.dtype, kind: str, rng: random.Random, device: torch.device, width: int
    ) -> torch.Tensor:
        if kind == "constant":
            return torch.full((n,), rng.choice(_CONSTANTS), dtype=dtype, device=device)
        if kind == "low rank":
            factors = [
                self._floats(k, dtype, "normal", rng, device, 1) for k in (-(-n // width) if width else 0, width)
            ]
            return torch.outer(*(f.double() for f in factors)).reshape(-1)[:n].to(dtype)
        if kind == "sorted":
            return self._floats(n, dtype, "normal", rng, device, 1).double().sort()[0].to(dtype)
        base = "normal" if kind in ("nan", "inf") else kind
        pool = self._pool(base, dtype, _SMALL_POOL if n <= 4096 else _POOL, device)
        # A window that is cut off at the pool's end would be drawn again and again.
        whole = pool.roll(-rng.randrange(len(pool))) if n > len(pool) // 2 else pool[rng.randrange(len(pool) - n + 1) :]
        flat = whole[:n].clone() if n <= len(whole) else whole.repeat(-(-n // len(whole)))[:n]
        if kind in ("nan", "inf") and n:
            # Not the largest finite values: whether a sum of those overflows is a matter of its order.
            chosen = [float("nan")] if kind == "nan" else [float("inf"), -float("inf"), 0.0, -0.0]
            for special in chosen * 2:
                flat[rng.randrange(n)] = special
        return flat

    def draw(
        self,
        spec: TensorSpec,
        symbols: Mapping[str, int],
        kind: str,
        rng: random.Random,
        allowed: Range | None,
        *,
        device: torch.device = _HOST,
    ) -> torch.Tensor:
        """One input: its flat storage on that device (the caller knows shape and strides).

        What lies between the elements of a slice is poison: nobody may read it.
        """
        shape, stride = values(spec.shape, symbols), values(spec.stride, symbols)
        n = storage_elements(shape, stride)
        dtype: torch.dtype = getattr(torch, spec.dtype)
        if not _has_gaps(shape, stride):
            return self._elements(n, dtype, kind, rng, allowed, device, shape[-1] if shape else 1)
        drawn = self._elements(math.prod(shape), dtype, kind, rng, allowed, device, shape[-1] if shape else 1)
        flat = torch.full((n * dtype.itemsize,), 0xFF, dtype=torch.uint8, device=device).view(dtype)
        flat.as_strided(shape, stride).copy_(drawn.view(shape))
        return flat

    def _elements(  # noqa: PLR0917 - what `draw` was given
        self,
        n: int,
        dtype: torch.dtype,
        kind: str,
        rng: random.Random,
        allowed: Range | None,
        device: torch.device,
        width: int,
    ) -> torch.Tensor:
        if dtype.is_floating_point:
            return self._floats(n, dtype, kind, rng, device, width)
        if dtype.is_complex:
            parts = self._floats(2 * n, dtype.to_real(), kind, rng, device, 2 * width)
            return torch.view_as_complex(parts.view(n, 2))
        generator = torch.Generator(device).manual_seed(rng.getrandbits(62))
        if dtype == torch.bool:
            return torch.randint(2, (n,), generator=generator, device=device).to(dtype)
        span = allowed or (Range(0, 9) if dtype == torch.uint8 else Range(-9, 9))
        high = max(span.hi, span.lo + 1)
        return torch.randint(span.lo, high, (n,), generator=generator, device=device).to(dtype)


def _has_gaps(shape: Sequence[int], stride: Sequence[int]) -> bool:
    """Whether memory between the elements belongs to none of them, and no two share any."""
    span = 1
    for step, n in sorted((s, n) for s, n in zip(stride, shape, strict=True) if n > 1):
        if step < span:
            return False
        span += step * (n - 1)
    return 0 < math.prod(shape) < span


def beside(flat: torch.Tensor, seed: int) -> torch.Tensor:
    """A neighbour of these values: floats moved by up to two last bits (one, where there are few bits), at random."""
    if not flat.is_floating_point():
        return flat
    generator = torch.Generator(flat.device).manual_seed(seed)
    most = 2 if flat.element_size() > 2 else 1
    bits = torch.randint(-most, most + 1, flat.shape, generator=generator, device=flat.device)
    return (flat * (1 + bits.double() * torch.finfo(flat.dtype).eps)).to(flat.dtype)


def on_host(sub: Subgraph) -> Subgraph:
    """The same operators, with all tensors on the host."""
    nodes = tuple(
        replace(
            n,
            args=_args_on_host(n.args),
            kwargs=tuple((k, _on_host(v)) for k, v in n.kwargs),
            out=_spec_on_host(n.out) if isinstance(n.out, TensorSpec) else tuple(s and _spec_on_host(s) for s in n.out),
        )
        for n in sub.nodes
    )
    return replace(sub, inputs=tuple(map(_spec_on_host, sub.inputs)), nodes=nodes)


def _spec_on_host(spec: TensorSpec) -> TensorSpec:
    return replace(spec, device="cpu")


def _on_host(arg: Arg) -> Arg:
    if isinstance(arg, tuple):
        return _args_on_host(arg)
    return TorchConst("device('cpu')") if isinstance(arg, TorchConst) and arg.text.startswith("device(") else arg


def _args_on_host(args: tuple[Arg, ...]) -> tuple[Arg, ...]:
    return tuple(_on_host(a) for a in args)


def positions(sub: Subgraph, symbols: Mapping[str, int]) -> dict[int, Range]:
    """For each integer input that is used as positions: the range in which they are valid."""
    found: dict[int, Range] = {}
    for node in sub.nodes:
        for ref, size, negative in _consumed(sub, node, symbols):
            for index in _integer_inputs(sub, ref):
                old = found.get(index, Range(-size if negative else 0, size))
                found[index] = Range(max(old.lo, -size if negative else 0), min(old.hi, size))
    return found


def computes_positions(sub: Subgraph) -> bool:
    """Whether some positions are not inputs as they are, but made in the graph: counted, shifted, chosen."""
    first = len(sub.inputs)
    hints = {s.name: s.hint for s in sub.symbols}
    return any(ref.index >= first for node in sub.nodes for ref, _, _ in _consumed(sub, node, hints))


def _extent(sub: Subgraph, ref: object, dim: object, symbols: Mapping[str, int]) -> int:
    spec = sub.spec_of(ref.index) if isinstance(ref, Ref) else None
    if not isinstance(spec, TensorSpec) or not isinstance(dim, int):
        return 1
    return value(spec.shape[dim], symbols) if spec.shape else 1


def _consumed(sub: Subgraph, node: OpNode, symbols: Mapping[str, int]) -> list[tuple[Ref, int, bool]]:
    """(the positions, the extent they index, whether they may be negative) for each such operand of a node."""
    name = node.target.split(".")[1] if "." in node.target else node.target
    args: Sequence[object] = node.args
    found: list[tuple[object, int, bool]] = []
    if name == "embedding":
        found = [(args[1], _extent(sub, args[0], 0, symbols), False)]
    elif name == "embedding_dense_backward":
        rows = args[2]
        found = [(args[1], rows if isinstance(rows, int) else 1, False)]
    elif name in ("gather", "index_select", "scatter", "scatter_add", "scatter_reduce", "index_add", "index_fill"):
        found = [(args[2], _extent(sub, args[0], args[1], symbols), False)]
    elif name in ("index", "index_put", "_unsafe_index", "_unsafe_index_put") and isinstance(args[1], tuple):
        found = [(r, _extent(sub, args[0], d, symbols), True) for d, r in enumerate(args[1])]
    elif name in ("nll_loss_forward", "nll_loss2d_forward", "nll_loss", "nll_loss2d"):
        found = [(args[1], _extent(sub, args[0], min(1, _rank(sub, args[0]) - 1), symbols), False)]
    elif name in ("nll_loss_backward", "nll_loss2d_backward"):
        found = [(args[2], _extent(sub, args[1], min(1, _rank(sub, args[1]) - 1), symbols), False)]
    return [(r, size, negative) for r, size, negative in found if isinstance(r, Ref)]


def _rank(sub: Subgraph, ref: object) -> int:
    spec = sub.spec_of(ref.index) if isinstance(ref, Ref) else None
    return len(spec.shape) if isinstance(spec, TensorSpec) else 1


def _integer_inputs(sub: Subgraph, ref: Ref) -> set[int]:
    """The integer inputs a value is made of."""
    spec = sub.spec_of(ref.index)
    if not isinstance(spec, TensorSpec) or not spec.dtype.startswith(("int", "uint")):
        return set()
    if ref.index < len(sub.inputs):
        return {ref.index}
    node = sub.nodes[ref.index - len(sub.inputs)]
    flat = [a for arg in node.args for a in (arg if isinstance(arg, tuple) else (arg,))]
    return {i for a in flat if isinstance(a, Ref) for i in _integer_inputs(sub, a)}
