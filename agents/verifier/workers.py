"""The judge's handles of the processes that run candidates, and the verdict that ends a judgement early."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from akg_dynamo.agents.verifier.arena import Arena, Buffers
from akg_dynamo.agents.verifier.channel import Channel, ChannelClosed, ChannelTimeout, pair
from akg_dynamo.agents.verifier.cuda_memory import CudaMemory, SharingFault
from akg_dynamo.agents.verifier.device_arena import DeviceArena
from akg_dynamo.agents.verifier.sandbox.processes import Census, census, signal_tree
from akg_dynamo.core.types import Outcome, Trick

_DETACH_S = 10.0
_WARM_S = 60.0


class Failed(Exception):
    """A verdict reached early."""

    def __init__(self, outcome: Outcome, detail: str, *tricks: Trick) -> None:
        super().__init__(detail)
        self.outcome = outcome
        self.detail = detail
        self.tricks = tricks


class Workers:
    """Asks the zygote for processes, and sees to their end."""

    def __init__(self, zygote: Channel) -> None:
        self.zygote = zygote
        self.shares_device_memory = True  # until it fails

    def start(self) -> Worker:
        """A fresh worker, with an arena of its own."""
        ours, theirs = pair()
        arena = Arena.create()
        self.zygote.send({"op": "fork"}, fds=[theirs.fileno(), arena.fd])
        theirs.close()
        message, _ = self.zygote.receive()
        return Worker(self, message["pid"], ours, arena)

    def reap(self, pid: int) -> int:
        """A dead worker's wait status."""
        self.zygote.send({"op": "reap", "pid": pid})
        return int(self.zygote.receive()[0]["status"])


class Worker:
    """The judge's handle of one process that runs candidates."""

    def __init__(self, workers: Workers, pid: int, channel: Channel, arena: Arena) -> None:
        self.workers = workers
        self.pid = pid
        self.channel = channel
        self.arena = arena
        self.device_arena: DeviceArena | None = None
        self.alive = True
        self._owed = 0  # answers that nobody has waited for yet

    def tell(self, message: dict[str, Any]) -> None:
        """A request whose answer is of no interest; what is asked next waits for its end."""
        try:
            self.channel.send(message)
        except ChannelClosed:
            self.end()
        else:
            self._owed += 1

    def send(self, message: dict[str, Any], blob: bytes = b"") -> None:
        """A request, whose `answer` is asked for later."""
        if not self.alive:
            raise Failed(Outcome.NOT_JUDGED, "the process for this device could not be started")
        try:
            self.channel.send(message, blob)
        except ChannelClosed:
            raise Failed(Outcome.CRASHED, self.end()) from None

    def answer(self, timeout_s: float) -> dict[str, Any]:
        """The answer to what was sent."""
        while self._owed:
            self._receive(_WARM_S)
            self._owed -= 1
        return self._receive(timeout_s)

    def ask(self, message: dict[str, Any], timeout_s: float, blob: bytes = b"") -> dict[str, Any]:
        """One request, and its answer; whatever else happens is a failed candidate."""
        self.send(message, blob)
        return self.answer(timeout_s)

    def _receive(self, timeout_s: float) -> dict[str, Any]:
        try:
            answer = self.channel.receive(timeout_s)[0]
        except ChannelTimeout:
            self.end()
            raise Failed(Outcome.TIMED_OUT, f"no answer in {timeout_s:g} s") from None
        except ChannelClosed:
            raise Failed(Outcome.CRASHED, self.end()) from None
        if answer.get("broken"):  # by an illegal address, say: no later call can succeed in that process
            self.end()
            raise Failed(Outcome.CRASHED, str(answer.get("error")))
        return answer

    def freeze(self) -> None:
        """Stop it, with all it started, where it is."""
        signal_tree(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        signal_tree(self.pid, signal.SIGCONT)

    def census(self) -> Census:
        """How much there is of it now."""
        return census(self.pid)

    def arena_on_device(self) -> Buffers:
        """Memory of the device that both sides see; or, where that cannot be had, the arena in host memory."""
        if self.device_arena is None and self.workers.shares_device_memory:
            try:
                arena = DeviceArena(CudaMemory(), self._detach)
                where = {"op": "attach", "where": arena.publish()}
                if "error" in self.ask(where, _DETACH_S):
                    arena.close()
                    raise SharingFault
                self.device_arena = arena
            except SharingFault:
                self.workers.shares_device_memory = False
        return self.device_arena or self.arena

    def _detach(self) -> None:
        self.ask({"op": "detach"}, _DETACH_S)

    def shrink(self, keep_bytes: int) -> None:
        """Give large arenas back."""
        self.arena.shrink(keep_bytes)
        if self.device_arena is not None:
            self.device_arena.shrink(keep_bytes)

    def end(self) -> str:
        """Kill it with all it started; says how it ended."""
        if not self.alive:
            return "ended before"
        self.alive = False
        self.channel.close()
        self.arena.close()
        time.sleep(0.005)  # a process that is ending by itself leaves its own status
        for kill in (os.killpg, os.kill):  # it may not have made its group yet, or have left it
            try:
                kill(self.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue
        status = self.workers.reap(self.pid)
        if self.device_arena is not None:
            self.device_arena.close()
        if os.WIFSIGNALED(status):
            return f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
        return f"exited with status {os.WEXITSTATUS(status)} without an answer"
