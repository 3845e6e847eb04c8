"""Device memory that two processes share, through CUDA's driver interface.

Not through torch's sharing of storages: there the owner keeps a block until every receiver has given it back, and a
worker that is killed gives nothing back.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any, Protocol

import torch

_LAZY_PEER_ACCESS = 1


class SharingFault(Exception):
    """The driver does not share memory between processes here (some containers and virtual machines)."""


def start(ordinal: int) -> None:
    """Make this process's context on that device, which takes a while, and use it from now on."""
    if not torch.cuda.is_available():
        raise RuntimeError("no CUDA device can be used here")
    torch.cuda.set_device(ordinal)
    torch.cuda.init()  # type: ignore[no-untyped-call]  # torch's own


class DeviceMemory(Protocol):
    """How device memory is had, given to another process, and taken from one."""

    def allocate(self, n_bytes: int) -> tuple[torch.Tensor, bytes]:
        """Bytes of our own, and the handle under which another process can attach them."""

    def free(self, owned: torch.Tensor) -> None:
        """Give up what `allocate` returned; nobody may be attached any more."""

    def attach(self, handle: bytes, n_bytes: int) -> torch.Tensor:
        """Another process's bytes."""

    def detach(self, attached: torch.Tensor) -> None:
        """Give up what `attach` returned."""

    def synchronize(self) -> None:
        """Wait until all work of this process is done."""


class _Handle(ctypes.Structure):
    _fields_ = (("bytes", ctypes.c_ubyte * 64),)


class _Bytes:
    """What torch asks of an object whose memory it is to wrap."""

    def __init__(self, address: int, n_bytes: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (n_bytes,),
            "typestr": "|u1",
            "data": (address, False),
            "strides": None,
            "version": 3,
        }


@functools.cache
def _driver() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")


def _call(name: str, *arguments: Any) -> None:
    status = getattr(_driver(), name)(*arguments)
    if status != 0:
        raise SharingFault(f"{name} failed with status {status}")


def _wrap(address: int, n_bytes: int) -> torch.Tensor:
    return torch.as_tensor(_Bytes(address, n_bytes), device=torch.device("cuda", torch.cuda.current_device()))


class CudaMemory:
    """Memory of the current device. CUDA must be initialised."""

    def allocate(self, n_bytes: int) -> tuple[torch.Tensor, bytes]:
        """A region of its own, outside torch's allocator."""
        address, handle = ctypes.c_uint64(), _Handle()
        _call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(n_bytes))
        try:
            _call("cuIpcGetMemHandle", ctypes.byref(handle), address)
        except SharingFault:
            _call("cuMemFree_v2", address)
            raise
        return _wrap(address.value, n_bytes), bytes(handle.bytes)

    def free(self, owned: torch.Tensor) -> None:
        """Tensors over it must not be used any more."""
        torch.cuda.synchronize()
        _call("cuMemFree_v2", ctypes.c_uint64(owned.data_ptr()))

    def attach(self, handle: bytes, n_bytes: int) -> torch.Tensor:
        """Map the region that handle names."""
        address, named = ctypes.c_uint64(), _Handle()
        ctypes.memmove(ctypes.byref(named), handle, ctypes.sizeof(named))
        _call("cuIpcOpenMemHandle_v2", ctypes.byref(address), named, ctypes.c_uint(_LAZY_PEER_ACCESS))
        return _wrap(address.value, n_bytes)

    def detach(self, attached: torch.Tensor) -> None:
        """Unmap it; tensors over it must not be used any more."""
        torch.cuda.synchronize()
        _call("cuIpcCloseMemHandle", ctypes.c_uint64(attached.data_ptr()))

    def synchronize(self) -> None:
        """Of every stream."""
        torch.cuda.synchronize()
