"""Memory shared by the judge and one worker: inputs go in, output bytes come out.

Every buffer lies between guard zones filled with 0xFF bytes: NaN to whoever reads past an end, and a trace of whoever
writes past one. `Buffers` says what an arena is, `Arena` is one in host memory (`device_arena` has one on a device).
Its file is sealed against shrinking, so that a candidate cannot pull it from under the judge.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from typing import Any

import torch

GUARD_BYTES = 256
ALIGN_BYTES = 64
_F_ADD_SEALS = 1033
_F_SEAL_SHRINK = 0x2
_GROW_BYTES = 1 << 20


class Buffers:
    """A bump allocator over bytes that both sides see (the judge's side allocates; the worker only maps)."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.bytes = torch.empty(0, dtype=torch.uint8)
        self.generation = 0  # changes with what was written
        self._top = 0

    def reset(self) -> None:
        """Forget every buffer."""
        self._top = 0

    def reserve(self, n_bytes: int, misalign: int = 0) -> int:
        """The offset of a new buffer; `misalign` bytes past an aligned address. `commit` makes it addressable."""
        start = self._top + GUARD_BYTES
        start += -start % ALIGN_BYTES + misalign
        self._top = start + n_bytes
        return start

    @property
    def used(self) -> int:
        """How many bytes are reserved, with the last guard zone."""
        return self._top + GUARD_BYTES

    def commit(self) -> None:
        """Make what was reserved addressable."""
        raise NotImplementedError

    def publish(self) -> dict[str, Any]:
        """Let the worker see what was written; what it must be told to find it."""
        self.generation += 1
        return {"used": self.used, "generation": self.generation}

    def guard(self, offset: int, n_bytes: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The zones before and after a buffer."""
        end = offset + n_bytes
        return self.bytes[offset - GUARD_BYTES : offset], self.bytes[end : end + GUARD_BYTES]


class Arena(Buffers):
    """A growing mapping of a file in memory."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self.fd = fd
        self.size = 0

    @classmethod
    def create(cls) -> Arena:
        """A new empty arena (the judge's side)."""
        fd = os.memfd_create("akg-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        fcntl.fcntl(fd, _F_ADD_SEALS, _F_SEAL_SHRINK)
        return cls(fd)

    def map(self, size: int) -> None:
        """Make at least `size` bytes addressable. Older mappings live as long as tensors over them."""
        if size <= self.size:
            return
        if os.fstat(self.fd).st_size < size:
            os.ftruncate(self.fd, size)
        self._mapping = mmap.mmap(self.fd, size)
        self.bytes = torch.frombuffer(self._mapping, dtype=torch.uint8)
        self.size = size

    def commit(self) -> None:
        """Map what was reserved, in steps that double."""
        if self.used > self.size:
            self.map(max(-(-self.used // _GROW_BYTES) * _GROW_BYTES, min(2 * self.size, 256 << 20)))

    def publish(self) -> dict[str, Any]:
        """Memory of both processes: nothing to do but to name its size."""
        return {**super().publish(), "size": self.size}

    def shrink(self, keep_bytes: int) -> None:
        """Give memory beyond `keep_bytes` back to the system; the addresses stay valid and read as zeros."""
        if self.size > keep_bytes:
            self._mapping.madvise(mmap.MADV_REMOVE, keep_bytes, self.size - keep_bytes)

    def close(self) -> None:
        """Drop the mapping and the file."""
        self.bytes = torch.empty(0, dtype=torch.uint8)
        os.close(self.fd)


def typed(buffer: torch.Tensor, offset: int, n_elements: int, dtype: torch.dtype) -> torch.Tensor:
    """`n_elements` of `dtype` at a byte offset (a multiple of the element's size), sharing the buffer's memory."""
    return buffer[offset : offset + n_elements * dtype.itemsize].view(dtype)
