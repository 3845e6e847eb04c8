"""Bounds of what Triton's interpreter loads and stores: every address that is not masked out must lie in an argument.

    with interpreted(), watched_bounds() as bounds:
        kernel[grid](x, y)
    bounds.broken          # "kernel() reads 4 bytes, 12 past the end of an argument", or empty

An access out of bounds is not carried out: it raises `OutOfBounds` in the kernel, and whatever the kernel's caller does
with that, it is kept here. An argument is what its shape and strides span, not the storage that it was cut from. A
kernel that is given an integer tensor may have addresses of its own making: then only what lies beside an argument is
out of bounds, and even that is not where an address that the tensor holds lies between the two: allocators put tensors
that a table names next to those that are arguments.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch

_BESIDE_BYTES = 1 << 16
_INTEGERS = (torch.int64, torch.uint64)
_LOWEST_ADDRESS = 1 << 32  # of a 64-bit process's heap: what is below is an index or a count


class OutOfBounds(Exception):
    """A kernel's access to memory that it was not given."""


class Bounds:
    """The memory of the launch that is running, and what was wrong first."""

    def __init__(self) -> None:
        self.broken = ""
        self._starts = np.zeros(0, np.uint64)
        self._ends = np.zeros(0, np.uint64)
        self._has_table = False
        self._held = np.zeros(0, np.uint64)

    def launch(self, arguments: list[Any]) -> None:
        """A kernel begins, with these arguments."""
        tensors = [t for t in _tensors(arguments) if t.numel()]
        spans = sorted((t.data_ptr(), t.data_ptr() + _span_bytes(t)) for t in tensors)
        merged: list[list[int]] = []
        for start, end in spans:
            if merged and start <= merged[-1][1]:
                merged[-1][1] = max(merged[-1][1], end)
            else:
                merged.append([start, end])
        self._starts = np.array([s for s, _ in merged], np.uint64)
        self._ends = np.array([e for _, e in merged], np.uint64)
        tables = [t for t in tensors if t.dtype in _INTEGERS]
        self._has_table = bool(tables)
        self._held = np.unique(np.concatenate([np.zeros(0, np.uint64), *map(_held_addresses, tables)]))

    def check(self, what: str, pointers: Any, mask: Any) -> None:
        """Raise `OutOfBounds` unless all these addresses are an argument's."""
        addresses = np.asarray(pointers.data, np.uint64)
        active = np.broadcast_to(np.asarray(mask.data, np.bool_), addresses.shape)
        addresses = addresses[active].reshape(-1)
        if not addresses.size:
            return
        n_bytes = np.uint64(max(1, pointers.get_element_ty().primitive_bitwidth // 8))
        if not len(self._starts):
            return self._break(f"{what} {n_bytes} bytes, and has no argument to do so in")
        at = np.searchsorted(self._starts, addresses, side="right").astype(np.int64) - 1
        before = at < 0
        at = np.maximum(at, 0)
        wrong = before | (addresses + n_bytes > self._ends[at])
        if self._has_table:
            wrong &= self._beside(addresses, n_bytes) & ~self._named(addresses, self._ends[at], before)
        if wrong.any():
            first = int(np.flatnonzero(wrong)[0])
            address = int(addresses[first])
            past, short = self._distances(address, int(n_bytes))
            where = f"{past} past the end" if past <= short else f"{short} before the start"
            self._break(f"{what} {n_bytes} bytes, {where} of an argument")

    def _beside(self, addresses: Any, n_bytes: Any) -> Any:
        found = np.zeros(addresses.shape, np.bool_)
        for start, end in zip(self._starts, self._ends, strict=True):
            low = np.uint64(max(0, int(start) - _BESIDE_BYTES))
            found |= (addresses + n_bytes > low) & (addresses < end + np.uint64(_BESIDE_BYTES))
        return found

    def _named(self, addresses: Any, ends: Any, before: Any) -> Any:
        """Which addresses lie at or after one that a table holds, nothing of an argument being between the two.

        `ends` are those of the arguments that start before them; `before` says where none does.
        """
        if not len(self._held):
            return np.zeros(addresses.shape, np.bool_)
        at = np.searchsorted(self._held, addresses, side="right").astype(np.int64) - 1
        return (at >= 0) & (before | (self._held[np.maximum(at, 0)] >= ends))

    def _distances(self, address: int, n_bytes: int) -> tuple[int, int]:
        """How far it is past the nearest end, and before the nearest start."""
        past = [address - int(e) for e in self._ends if address + n_bytes > int(e)]
        short = [int(s) - address for s in self._starts if address < int(s)]
        return min((abs(p) for p in past), default=1 << 63), min(short, default=1 << 63)

    def _break(self, text: str) -> None:
        self.broken = self.broken or f"a kernel {text}"
        raise OutOfBounds(text)


def _tensors(arguments: list[Any]) -> Iterator[torch.Tensor]:
    for argument in arguments:
        if isinstance(argument, torch.Tensor):
            yield argument
        elif isinstance(argument, tuple | list):
            yield from _tensors(list(argument))
        else:  # a descriptor, or a tensor under another dtype
            inner = getattr(argument, "base", None)
            if isinstance(inner, torch.Tensor):
                yield inner


def _span_bytes(t: torch.Tensor) -> int:
    return (1 + sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True))) * t.element_size()


def _held_addresses(table: torch.Tensor) -> Any:
    """The values of an integer tensor that can be addresses, as uint64 of shape (n,)."""
    for dim, stride in enumerate(table.stride()):
        table = table if stride else table.narrow(dim, 0, 1)  # a broadcast one can be larger than the memory
    values = table.detach().cpu().numpy().reshape(-1).astype(np.uint64)
    return values[values >= _LOWEST_ADDRESS]


@contextmanager
def watched_bounds() -> Iterator[Bounds]:
    """Watch every launch inside; within `interpreted`."""
    from triton.runtime import interpreter

    bounds = Bounds()
    prepare = interpreter.GridExecutor._init_args_hst
    builder = interpreter.InterpreterBuilder

    def prepared(self: Any, args: Any, kwargs: Any) -> Any:
        on_host, named = prepare(self, args, kwargs)
        bounds.launch([*on_host, *named.values()])
        return on_host, named

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(interpreter.GridExecutor, "_init_args_hst", prepared))
        for name, what, mask_at in (
            ("create_masked_load", "reads", 1),
            ("create_masked_store", "writes", 2),
            ("create_atomic_rmw", "updates", 3),
        ):
            stack.enter_context(
                mock.patch.object(builder, name, _checked(bounds, getattr(builder, name), what, mask_at))
            )
        stack.enter_context(
            mock.patch.object(builder, "create_atomic_cas", _checked_cas(bounds, builder.create_atomic_cas))
        )
        yield bounds


def _checked(bounds: Bounds, original: Any, what: str, mask_at: int) -> Any:
    """`original(self, pointers, …)`; an atomic has its operation before them."""
    at = 1 if what == "updates" else 0

    def method(self: Any, *args: Any) -> Any:
        bounds.check(what, args[at], args[mask_at])
        return original(self, *args)

    return method


def _checked_cas(bounds: Bounds, original: Any) -> Any:
    def method(self: Any, pointers: Any, *args: Any) -> Any:
        from triton.runtime.interpreter import TensorHandle

        everywhere = TensorHandle(np.ones_like(pointers.data, np.bool_), pointers.dtype)
        bounds.check("updates", pointers, everywhere)
        return original(self, pointers, *args)

    return method
