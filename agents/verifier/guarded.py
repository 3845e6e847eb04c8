"""Guard zones around the memory a candidate allocates itself: its outputs, and its scratch memory.

While it runs, the functions of torch that hand out uninitialised memory give it pieces of larger blocks filled with
0xFF bytes: NaN, or -1. A second call on the same inputs is given others: so it shows, too, who leaves or writes there
what was there before. On a device that is the only way to see a write past an end: there, nothing crashes as long as
the address belongs to the process. A candidate that allocates in another way merely goes unguarded.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch._C._dynamo import guards

from akg_dynamo.agents.verifier.shapes import storage_elements

ZONE_BYTES = 4096
FILLS = (0xFF, 0x4B)
"""What fresh memory and the zones hold: in a first call, and (1.3e7 as a float) in a second one on the same inputs."""
_NAMES = (
    (torch, "empty"),
    (torch, "empty_strided"),
    (torch, "empty_like"),
    (guards, "_empty_strided_cpu"),
    (guards, "_empty_strided_cuda"),
)
_NATIVE = {name: getattr(module, name) for module, name in _NAMES if hasattr(module, name)}


class Zones:
    """The blocks handed out since `guarding` began, on one device."""

    def __init__(self, device: torch.device, fill: int = FILLS[0]) -> None:
        self.device = device
        self.fill = fill
        self._zones: list[torch.Tensor] = []
        self._found: list[torch.Tensor] = []

    def settle(self) -> None:
        """Look at the zones, and let go of the blocks. On a device, this only queues the look."""
        self._found += [(zone != self.fill).any() for zone in self._zones]
        self._zones.clear()

    def violated(self) -> bool:
        """Whether anything was written there, by what had been handed out when it was settled."""
        found, self._found = self._found, []
        return bool(torch.stack(found).any()) if found else False

    def allocate(self, shape: Sequence[int], stride: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Uninitialised memory of that layout, between zones."""
        n_bytes = storage_elements(shape, stride) * dtype.itemsize
        block = torch.full((ZONE_BYTES + n_bytes + ZONE_BYTES,), self.fill, dtype=torch.uint8, device=self.device)
        self._zones += [block[:ZONE_BYTES], block[ZONE_BYTES + n_bytes :]]
        inside = block[ZONE_BYTES : ZONE_BYTES + n_bytes].view(dtype)
        return inside.as_strided(shape, stride, inside.storage_offset())

    # -- what stands in for torch's functions; they give way wherever they are asked for anything special --------------

    def _here(self, device: Any) -> bool:
        wanted = torch.device("cpu" if device is None else device)
        return wanted.type == self.device.type

    def empty_strided(
        self, size: Sequence[int], stride: Sequence[int], *, dtype: torch.dtype | None = None, **rest: Any
    ) -> torch.Tensor:
        """For `torch.empty_strided`."""
        if not self._here(rest.get("device")) or rest.keys() - {"device"}:
            return _native("empty_strided", size, stride, dtype=dtype, **rest)
        return self.allocate(size, stride, dtype or torch.get_default_dtype())

    def empty(self, *size: Any, dtype: torch.dtype | None = None, **rest: Any) -> torch.Tensor:
        """For `torch.empty`."""
        shape = size[0] if len(size) == 1 and isinstance(size[0], Sequence) else size
        plain = all(isinstance(n, int) for n in shape)
        if not plain or not self._here(rest.get("device")) or rest.keys() - {"device"}:
            return _native("empty", *size, dtype=dtype, **rest)
        return self.allocate(shape, _contiguous(shape), dtype or torch.get_default_dtype())

    def empty_like(self, like: torch.Tensor, **rest: Any) -> torch.Tensor:
        """For `torch.empty_like`."""
        if rest or like.device.type != self.device.type or not like.is_contiguous():
            return _native("empty_like", like, **rest)
        return self.allocate(like.shape, like.stride(), like.dtype)

    def on(self, device: str) -> Callable[..., torch.Tensor]:
        """For the functions by which Inductor's code allocates on one device."""

        def allocate(size: Sequence[int], stride: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
            if device != self.device.type:
                return _native(f"_empty_strided_{device}", size, stride, dtype)
            return self.allocate(size, stride, dtype)

        return allocate


def _native(name: str, *args: Any, **kwargs: Any) -> torch.Tensor:
    made = _NATIVE[name](*args, **kwargs)
    assert isinstance(made, torch.Tensor)
    return made


def _contiguous(shape: Sequence[int]) -> list[int]:
    stride: list[int] = []
    step = 1
    for n in reversed(shape):
        stride.insert(0, step)
        step *= max(n, 1)
    return stride


@contextmanager
def guarding(module: types.ModuleType, zones: Zones) -> Iterator[None]:
    """While inside, what that module allocates lies between zones, whether it calls torch's functions or took them."""
    stand_ins: dict[str, Callable[..., torch.Tensor]] = {
        "empty": zones.empty,
        "empty_strided": zones.empty_strided,
        "empty_like": zones.empty_like,
        "_empty_strided_cpu": zones.on("cpu"),
        "_empty_strided_cuda": zones.on("cuda"),
    }
    by_identity = {id(native): stand_ins[name] for name, native in _NATIVE.items()}
    taken = {name: value for name, value in vars(module).items() if id(value) in by_identity}
    try:
        for name, value in taken.items():
            setattr(module, name, by_identity[id(value)])
        for owner, name in _NAMES:
            if name in _NATIVE:
                setattr(owner, name, stand_ins[name])
        yield
    finally:
        for owner, name in _NAMES:
            if name in _NATIVE:
                setattr(owner, name, _NATIVE[name])
        for name, value in taken.items():
            setattr(module, name, value)
