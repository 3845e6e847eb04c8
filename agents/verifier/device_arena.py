"""An arena in device memory: large tensors never leave the device.

The judge owns the memory; the worker attaches it. A fault in one process's kernels leaves the other's memory alone.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import torch

from akg_dynamo.agents.verifier.arena import Buffers
from akg_dynamo.agents.verifier.cuda_memory import DeviceMemory

_GROW_BYTES = 64 << 20


class DeviceArena(Buffers):
    """The judge's side. `detach` tells the worker to give up what it has attached: memory is freed only after that."""

    def __init__(self, memory: DeviceMemory, detach: Callable[[], None]) -> None:
        super().__init__()
        self.memory = memory
        self.detach = detach
        self.bytes, self.handle = memory.allocate(_GROW_BYTES)
        self.device = self.bytes.device

    @property
    def size(self) -> int:
        """Bytes allocated."""
        return len(self.bytes)

    def commit(self) -> None:
        """Allocate more if what is reserved does not fit: what the old memory held is lost."""
        if self.used > self.size:
            self.release()
            n_bytes = -(-self.used // _GROW_BYTES) * _GROW_BYTES
            self.bytes, self.handle = self.memory.allocate(n_bytes)

    def publish(self) -> dict[str, Any]:
        """Wait until it is written, and name it."""
        self.memory.synchronize()
        return {**super().publish(), "size": self.size, "handle": base64.b64encode(self.handle).decode()}

    def shrink(self, keep_bytes: int) -> None:
        """Give all of it back if it is larger than that."""
        if self.size > keep_bytes:
            self.release()

    def release(self) -> None:
        """Free it; the next `commit` allocates anew."""
        if self.handle:
            self.detach()
            self.close()

    def close(self) -> None:
        """Free it, the worker being gone or detached."""
        if self.handle:
            self.memory.free(self.bytes)
            self.bytes, self.handle = torch.empty(0, dtype=torch.uint8), b""
