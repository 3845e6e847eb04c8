"""Where a worker finds its inputs and leaves its outputs: one view of bytes, whatever memory the judge chose.

Host memory is used as it is, by kernels of the host. For a device, a small arena is copied there and back as one piece,
guard zones and all; a large one lies there already, and is attached.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import torch

from akg_dynamo.agents.verifier.arena import Arena
from akg_dynamo.agents.verifier.cuda_memory import CudaMemory, DeviceMemory


class Ground:
    """A worker's side of the arenas."""

    def __init__(self, arena_fd: int, memory: DeviceMemory | None = None) -> None:
        self.arena = Arena(arena_fd)
        self.memory = memory or CudaMemory()
        self.attached: tuple[bytes, torch.Tensor] | None = None
        self.copy: torch.Tensor | None = None
        self.copied = 0  # which generation of the arena

    def open(self, where: Mapping[str, Any]) -> torch.Tensor:
        """The bytes that a message's offsets count in."""
        if "handle" in where:
            self.copy = None
            return self._attach(base64.b64decode(where["handle"]), where["size"])
        self.arena.map(where["size"])
        if where["device"] == "cpu":
            return self.arena.bytes
        if self.copy is None or self.copied != where["generation"]:
            self.copy = self.arena.bytes[: where["used"]].to(where["device"], copy=True)
            self.copied = where["generation"]
        return self.copy

    def close(self) -> None:
        """Let the judge see what was written: raises what went wrong on the device."""
        if self.copy is not None:
            self.arena.bytes[: len(self.copy)].copy_(self.copy)
            self.copy = None
        elif self.attached is not None:
            self.memory.synchronize()

    def detach(self) -> None:
        """Give up the judge's memory."""
        if self.attached is not None:
            self.memory.detach(self.attached[1])
            self.attached = None

    def _attach(self, handle: bytes, n_bytes: int) -> torch.Tensor:
        if self.attached is None or self.attached[0] != handle:
            self.detach()
            self.attached = handle, self.memory.attach(handle, n_bytes)
        return self.attached[1]
