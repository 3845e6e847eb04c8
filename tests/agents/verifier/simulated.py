"""A device without a device: its memory is the host's, and the worker's side runs in this process.

What is judged this way takes the way of a device: copies of small arenas, shared memory for large ones, guard zones
around what the kernel allocates.
"""

from __future__ import annotations

import os
import pickle
import types
from typing import Any

import pytest
import torch

from akg_dynamo.agents.verifier import plan, values
from akg_dynamo.agents.verifier.arena import Arena, Buffers
from akg_dynamo.agents.verifier.channel import pair
from akg_dynamo.agents.verifier.device_arena import DeviceArena
from akg_dynamo.agents.verifier.ground import Ground
from akg_dynamo.agents.verifier.inputs import Drawer
from akg_dynamo.agents.verifier.job import Job
from akg_dynamo.agents.verifier.sandbox.processes import Census
from akg_dynamo.agents.verifier.values import Values
from akg_dynamo.agents.verifier.worker import _Worker
from akg_dynamo.cache.flags import EagerFlags

DEVICE = "cpu:0"  # not the "cpu" that needs no copies


class Memory:
    """Device memory that knows who uses what, and breaks what is used after it was freed."""

    def __init__(self) -> None:
        self.owned: dict[bytes, torch.Tensor] = {}
        self.attached: set[int] = set()
        self.synchronized = 0

    def allocate(self, n_bytes: int) -> tuple[torch.Tensor, bytes]:
        made = torch.zeros(n_bytes, dtype=torch.uint8)
        handle = made.data_ptr().to_bytes(8, "little")
        self.owned[handle] = made
        return made, handle

    def free(self, owned: torch.Tensor) -> None:
        handle = owned.data_ptr().to_bytes(8, "little")
        assert owned.data_ptr() not in self.attached, "freed while another process uses it"
        del self.owned[handle]

    def attach(self, handle: bytes, n_bytes: int) -> torch.Tensor:
        made = self.owned[handle]
        assert len(made) == n_bytes
        self.attached.add(made.data_ptr())
        return made

    def detach(self, attached: torch.Tensor) -> None:
        self.attached.remove(attached.data_ptr())

    def synchronize(self) -> None:
        self.synchronized += 1


class Worker:
    """Stands for both ends: the judge's handle, and the process."""

    def __init__(self) -> None:
        self.memory = Memory()
        self.pid = os.getpid()
        self.arena = Arena.create()
        self.process = _Worker(pair()[0], Ground(self.arena.fd, self.memory))
        self.process.device = DEVICE
        self.device_arena: DeviceArena | None = None
        self.answers: list[dict[str, Any]] = []
        self.asked: list[dict[str, Any]] = []
        self.shares_memory = True

    def freeze(self) -> None:
        """It does nothing between two requests anyway."""

    def thaw(self) -> None:
        """It was never stopped."""

    def census(self) -> Census:
        return Census(processes=1, threads=1, private_bytes=0)

    def arena_on_device(self) -> Buffers:
        if not self.shares_memory:
            return self.arena
        if self.device_arena is None:
            self.device_arena = DeviceArena(self.memory, self.process.ground.detach)
        return self.device_arena

    def send(self, message: dict[str, Any], blob: bytes = b"") -> None:
        message = pickle.loads(pickle.dumps(message))
        self.asked.append(message)
        try:
            self.answers.append(getattr(self.process, "_" + message["op"])(message, blob))
        except Exception as error:  # noqa: BLE001 - as in the worker's own loop
            self.answers.append({"error": str(error)})

    def answer(self, timeout_s: float) -> dict[str, Any]:
        return self.answers.pop()

    def ask(self, message: dict[str, Any], timeout_s: float, blob: bytes = b"") -> dict[str, Any]:
        self.send(message, blob)
        return self.answer(timeout_s)


def values_of(job: Job, worker: Worker, monkeypatch: pytest.MonkeyPatch, *, large: bool) -> Values:
    """The judgement of that job on the simulated device; `large`: as of tensors that never leave it."""
    monkeypatch.setattr(values, "_SMALL_BYTES", 0 if large else 1 << 30)
    for name in ("synchronize", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    module = types.ModuleType("candidate")
    exec(job.candidate.source, module.__dict__)
    worker.process.modules[job.candidate.digest] = module
    worker.process.flags = EagerFlags.now()
    found = Values(Drawer(), worker, job, plan.Means(1 << 24, candidate_bytes=1 << 30), [])  # type: ignore[arg-type]
    found.device = DEVICE
    return found
