"""The floor under every claim: the bytes a task must move and the operations it must do, at the best rate there is.

What must be moved is said with care, since who claims less is rejected: every output is written; an input is read when
nothing in the subgraph could do without some of its elements. Operations are those of matrix products that are outputs,
or become outputs element by element. Rates are measured once, on a quiet moment's best, and then doubled.
"""

from __future__ import annotations

import ctypes
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from akg_dynamo.core.types import Dim, OpNode, Ref, Subgraph, TensorSpec
from akg_dynamo.fusion.ops import OpKind, base_name, classify
from akg_dynamo.fusion.reference import refs

_MARGIN = 2.0
_WHOLE = (OpKind.POINTWISE, OpKind.REDUCTION, OpKind.NORM, OpKind.CAST, OpKind.MATMUL, OpKind.CONV, OpKind.GETITEM)
# Views that keep every element; and operators that may do without elements of an operand.
_KEEPING = frozenset(
    {
        "view",
        "_unsafe_view",
        "reshape",
        "permute",
        "transpose",
        "t",
        "unsqueeze",
        "squeeze",
        "expand",
        "alias",
        "detach",
    }
)
_SPARING = frozenset(
    {
        "where", "masked_fill", "fill", "any", "all", "tril", "triu", "nll_loss_forward", "nll_loss2d_forward",
        "nll_loss_backward",
    }
)  # fmt: skip
_PRODUCTS = frozenset({"mm", "bmm", "addmm", "baddbmm"})
_READ_BYTES = 1 << 20
_TRIES = 5
_WIDE_FACTOR = {1: 64.0, 2: 32.0, 4: 1.0, 8: 1.0}  # of matrix units that torch may not use here, over fp32


@dataclass(frozen=True)
class Work:
    """What a call must do at least. `narrowest`: bytes of the smallest element among the factors of its products."""

    n_bytes: int
    operations: int
    narrowest: int = 4


class Ceiling(Protocol):
    """The best that a machine can do."""

    def least_us(self, done: Work, footprint: int) -> tuple[float, str]:
        """No call takes less; and what it is that takes so long. `footprint`: bytes of all data sets in turn."""


def _value(dim: Dim, sizes: Mapping[str, int]) -> int:
    return dim if isinstance(dim, int) else int(eval(dim, {"__builtins__": {}, "min": min, "max": max}, dict(sizes)))


def _bytes(spec: TensorSpec, sizes: Mapping[str, int]) -> int:
    """Of the elements, each counted once however often it is repeated."""
    dtype: torch.dtype = getattr(torch, spec.dtype)
    dims = [_value(d, sizes) for d, s in zip(spec.shape, spec.stride, strict=True) if _value(s, sizes) != 0]
    return math.prod(dims) * dtype.itemsize


def work(sub: Subgraph, sizes: Mapping[str, int]) -> Work:
    """What every kernel for that subgraph must do."""
    written = sum(_bytes(s, sizes) for v, s in zip(sub.outputs, sub.output_specs, strict=True) if v >= len(sub.inputs))
    read = 0
    if all(_reads_all(node) for node in sub.nodes):
        used = {r for node in sub.nodes for r in refs((node.args, tuple(v for _, v in node.kwargs)))}
        read = sum(_bytes(spec, sizes) for i, spec in enumerate(sub.inputs) if i in used)
    operations, narrowest = _products(sub, sizes)
    return Work(written + read, operations, narrowest)


def _target(node: OpNode) -> Any:
    found: Any = torch.ops
    for part in node.target.split("."):
        found = getattr(found, part, None)
    return found


def _reads_all(node: OpNode) -> bool:
    if node.target == "getitem":
        return True
    target = _target(node)
    name = base_name(target)
    if name in _SPARING:
        return False
    return name in _KEEPING or classify(target) in _WHOLE


def _products(sub: Subgraph, sizes: Mapping[str, int]) -> tuple[int, int]:
    first, operations, narrowest = len(sub.inputs), 0, 4
    open_values = set(sub.outputs)
    for i in reversed(range(len(sub.nodes))):
        node = sub.nodes[i]
        if first + i not in open_values or node.target == "getitem":
            continue
        target = _target(node)
        name, kind = base_name(target), classify(target)
        arguments = [a.index for a in node.args if isinstance(a, Ref)]
        if name in _PRODUCTS and isinstance(node.out, TensorSpec):
            factor = sub.spec_of(arguments[-1])
            assert isinstance(factor, TensorSpec)
            inner = _value(factor.shape[-2], sizes)
            operations += 2 * inner * math.prod(_value(d, sizes) for d in node.out.shape)
            narrowest = min(narrowest, getattr(torch, factor.dtype).itemsize)
        elif kind in (OpKind.POINTWISE, OpKind.CAST) and name not in _SPARING:
            open_values.update(arguments)
    return operations, narrowest


class HostCeiling:
    """This machine's processors, all of them: each at what one does alone."""

    def __init__(self) -> None:
        self._read: dict[int, float] = {}
        self._operations = 0.0
        self.cores = os.cpu_count() or 1

    def least_us(self, done: Work, footprint: int) -> tuple[float, str]:
        """As the protocol says."""
        moved = done.n_bytes / (_MARGIN * self.cores * self._bytes_per_s(footprint))
        computed = 0.0
        if done.operations:
            computed = done.operations / (
                _MARGIN * self.cores * self._operations_per_s() * _WIDE_FACTOR[done.narrowest]
            )
        return _larger(done, moved, computed)

    def _bytes_per_s(self, footprint: int) -> float:
        """What one core reads in the cache, or the memory, that holds so much."""
        size = min(max(1 << footprint.bit_length(), 1 << 12), 1 << 26)
        if size not in self._read:
            half = size // 2
            a, b = (torch.ones(half, dtype=torch.uint8) for _ in range(2))  # zeros would be one page, read often
            times = max(1, _READ_BYTES // size)
            compare_bytes = ctypes.CDLL(None).memcmp
            compare_bytes.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
            best = math.inf
            for _ in range(_TRIES):
                start = time.perf_counter()
                for _ in range(times):
                    compare_bytes(a.data_ptr(), b.data_ptr(), half)
                best = min(best, time.perf_counter() - start)
            self._read[size] = times * size / best
        return max(rate for held, rate in self._read.items() if held >= size)

    def _operations_per_s(self) -> float:
        if not self._operations:
            threads = torch.get_num_threads()
            torch.set_num_threads(1)
            a = torch.rand(384, 384)
            best = _best_s(lambda: torch.mm(a, a))
            torch.set_num_threads(threads)
            self._operations = 2 * 384**3 / best
        return self._operations


class DeviceCeiling:
    """The current CUDA device."""

    def __init__(self) -> None:
        self._copied = 0.0
        self._operations = 0.0

    def least_us(self, done: Work, footprint: int) -> tuple[float, str]:
        """As the protocol says."""
        cache_bytes = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
        in_cache = 8.0 if footprint < 2 * cache_bytes else 1.0
        moved = done.n_bytes / (_MARGIN * in_cache * self._bytes_per_s())
        computed = 0.0
        if done.operations:
            computed = done.operations / (_MARGIN * (2.0 if done.narrowest == 1 else 1.0) * self._operations_per_s())
        return _larger(done, moved, computed)

    def _bytes_per_s(self) -> float:
        if not self._copied:
            n_bytes = 256 << 20
            a, b = (torch.zeros(n_bytes, dtype=torch.uint8, device="cuda") for _ in range(2))
            self._copied = 2 * n_bytes / _best_s(lambda: a.copy_(b), torch.cuda.synchronize)
        return self._copied

    def _operations_per_s(self) -> float:
        if not self._operations:
            a = torch.ones(4096, 4096, dtype=torch.bfloat16, device="cuda")
            self._operations = 2 * 4096**3 / _best_s(lambda: torch.mm(a, a), torch.cuda.synchronize)
        return self._operations


def _best_s(call: Any, wait: Any = lambda: None) -> float:
    best = math.inf
    for _ in range(_TRIES):
        wait()
        start = time.perf_counter()
        call()
        wait()
        best = min(best, time.perf_counter() - start)
    return best


def _larger(done: Work, moved_s: float, computed_s: float) -> tuple[float, str]:
    if computed_s > moved_s:
        return computed_s * 1e6, f"doing the {done.operations} operations of its product"
    return moved_s * 1e6, f"moving the {done.n_bytes} bytes it must move"
