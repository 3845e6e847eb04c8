"""The judge's handles of the processes that run candidates, and the verdict that ends a judgement early."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from akg_dynamo.agents.verifier.arena import Arena
from akg_dynamo.agents.verifier.channel import Channel, ChannelClosed, ChannelTimeout, pair
from akg_dynamo.core.types import Outcome


class Failed(Exception):
    """A verdict reached early."""

    def __init__(self, outcome: Outcome, detail: str) -> None:
        super().__init__(detail)
        self.outcome = outcome
        self.detail = detail


class Workers:
    """Asks the zygote for processes, and sees to their end."""

    def __init__(self, zygote: Channel) -> None:
        self.zygote = zygote

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
        self.alive = True

    def ask(self, message: dict[str, Any], timeout_s: float, blob: bytes = b"") -> dict[str, Any]:
        """One request, and its answer; whatever else happens is a failed candidate."""
        try:
            self.channel.send(message, blob)
            return self.answer(timeout_s)
        except ChannelClosed:
            raise Failed(Outcome.CRASHED, self.end()) from None

    def answer(self, timeout_s: float) -> dict[str, Any]:
        """The answer to what was sent."""
        try:
            return self.channel.receive(timeout_s)[0]
        except ChannelTimeout:
            self.end()
            raise Failed(Outcome.TIMED_OUT, f"no answer in {timeout_s:g} s") from None
        except ChannelClosed:
            raise Failed(Outcome.CRASHED, self.end()) from None

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
        if os.WIFSIGNALED(status):
            return f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
        return f"exited with status {os.WEXITSTATUS(status)} without an answer"
