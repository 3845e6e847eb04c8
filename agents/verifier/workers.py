"""The judge's handles of the processes that run candidates, and the verdict that ends a judgement early."""

from __future__ import annotations

import itertools
import os
import secrets
import signal
from collections import deque
from typing import Any

from akg_dynamo.agents.verifier import plan
from akg_dynamo.agents.verifier.arena import Arena, Buffers
from akg_dynamo.agents.verifier.channel import Channel, ChannelClosed, ChannelTimeout, NotAMessage, pair
from akg_dynamo.agents.verifier.cuda_memory import CudaMemory, SharingFault
from akg_dynamo.agents.verifier.device_arena import DeviceArena
from akg_dynamo.agents.verifier.sandbox import Confinement, environment, scratch
from akg_dynamo.agents.verifier.sandbox.limits import GIB, Limits
from akg_dynamo.agents.verifier.sandbox.processes import Census, Tree
from akg_dynamo.core.protection import Protection
from akg_dynamo.core.types import Outcome, Trick

_DETACH_S = 10.0
_WARM_S = 60.0
_LEAST_MEMORY_BYTES = 2 * GIB
_PROCESSES = 64
_MOST_ANSWERED_BYTES = 8 << 20  # which Python makes a hundred times as much of


class Failed(Exception):
    """A verdict reached early."""

    def __init__(self, outcome: Outcome, detail: str, *tricks: Trick) -> None:
        super().__init__(detail)
        self.outcome = outcome
        self.detail = detail
        self.tricks = tricks


def trick_of_break(text: str) -> Trick:
    """What took a device's context down."""
    outside = any(said in text for said in ("illegal memory access", "misaligned address", "out-of-range"))
    return Trick.OUT_OF_BOUNDS if outside else Trick.EXHAUSTS


class Workers:
    """Asks the zygote for processes, and sees to their end."""

    def __init__(self, zygote: Channel, folder: str) -> None:
        """`folder`: where workers get their scratch folders."""
        self.zygote = zygote
        self.folder = folder
        self.shares_device_memory = True  # until it fails
        self._numbers = itertools.count()

    def start(
        self,
        device: str = "cpu",
        *,
        trusted: bool = True,
        shared: tuple[str, ...] = (),
        cpu_s: int = 0,
        without: tuple[str, ...] = (),
        because: str = "",
        talks: bool = False,
    ) -> Worker:
        """A fresh worker, with an arena and a scratch folder of its own.

        shared: folders that a trusted one may write into, too. The rest is as in `Confinement`.
        """
        folder = f"{self.folder}/{next(self._numbers)}"
        os.mkdir(folder, 0o700)
        memory_bytes = max(_LEAST_MEMORY_BYTES, plan.free_bytes() // (2 if trusted else 4))
        limits = Limits(memory_bytes=memory_bytes, cpu_s=cpu_s, processes=_PROCESSES + 4 * (os.cpu_count() or 1))
        confinement = Confinement(folder, device, trusted, shared, limits, without, because, talks)
        ours, theirs = pair()
        ours.most_bytes = _MOST_ANSWERED_BYTES
        arena = Arena.create()
        self.zygote.send({"op": "fork", "confinement": confinement.to_json()}, fds=[theirs.fileno(), arena.fd])
        theirs.close()
        message, _ = self.zygote.receive()
        return Worker(self, Tree(message["pid"], message["init"]), ours, arena, confinement)

    def preload(self, module: str) -> bool:
        """Have a module loaded in workers from now on; whether it could be."""
        self.zygote.send({"op": "preload", "module": module})
        return bool(self.zygote.receive()[0]["loaded"])

    def strays(self) -> int:
        """How many processes have been found and ended, since this was last asked, that had left whoever started them:
        no namespace of a worker's own holds them.
        """
        self.zygote.send({"op": "strays"})
        return int(self.zygote.receive()[0]["strays"])

    def finish(self, pid: int, *, by_itself: bool) -> tuple[int, str]:
        """End a worker with all it started: its wait status, and what it took too much of, if that ended it."""
        self.zygote.send({"op": "end", "pid": pid, "by_itself": by_itself})
        answer = self.zygote.receive()[0]
        return int(answer["status"]), str(answer["ended_for"])


class Worker:
    """The judge's handle of one process that runs candidates."""

    def __init__(self, workers: Workers, tree: Tree, channel: Channel, arena: Arena, confinement: Confinement) -> None:
        self.confinement = confinement
        self.workers = workers
        self.tree = tree
        self.pid = tree.pid
        self.channel = channel
        self.arena = arena
        self.device_arena: DeviceArena | None = None
        self.alive = True
        self._owed = 0  # answers that nobody has waited for yet
        self._asked: deque[str] = deque()  # what the next answers must repeat
        self._protection: Protection | None = None

    @property
    def protection(self) -> Protection:
        """What its candidates are kept from."""
        if self._protection is None:
            self._hear()
        return self._protection or Protection()

    @property
    def build_dir(self) -> str:
        """Where candidates build that may not write elsewhere."""
        return f"{self.confinement.folder}/{environment.BUILD}"

    def _hear(self) -> None:
        """What it says of itself first, before any candidate is in it."""
        try:
            said = self.channel.receive(_WARM_S)[0]
        except (ChannelClosed, ChannelTimeout):
            how = self.end(by_itself=True)
            raise Failed(Outcome.NOT_JUDGED, f"no process could be started: {how}") from None
        self._protection = Protection.from_json(said["protection"])

    def tell(self, message: dict[str, Any]) -> None:
        """A request whose answer is of no interest; what is asked next waits for its end."""
        try:
            self.channel.send(self._numbered(message))
        except ChannelClosed:
            self.end()
        else:
            self._owed += 1

    def told(self, timeout_s: float) -> dict[str, Any]:
        """The answer to what it was told last; empty if that was waited for before."""
        if not self.alive:
            raise Failed(Outcome.NOT_JUDGED, "the process for this device could not be started")
        answer: dict[str, Any] = {}
        while self._owed:
            answer = self._receive(timeout_s)
            self._owed -= 1
        return answer

    def send(self, message: dict[str, Any], blob: bytes = b"") -> None:
        """A request, whose `answer` is asked for later."""
        if not self.alive:
            raise Failed(Outcome.NOT_JUDGED, "the process for this device could not be started")
        try:
            self.channel.send(self._numbered(message), blob)
        except ChannelClosed:
            raise self._crashed() from None

    def _numbered(self, message: dict[str, Any]) -> dict[str, Any]:
        """With a word that nobody can know before it is sent: an answer given in advance does not have it."""
        self._asked.append(secrets.token_hex(8))
        return {**message, "nonce": self._asked[-1]}

    def answer(self, timeout_s: float) -> dict[str, Any]:
        """The answer to what was sent."""
        self.told(_WARM_S)
        return self._receive(timeout_s)

    def ask(self, message: dict[str, Any], timeout_s: float, blob: bytes = b"") -> dict[str, Any]:
        """One request, and its answer; whatever else happens is a failed candidate."""
        self.send(message, blob)
        return self.answer(timeout_s)

    def _receive(self, timeout_s: float) -> dict[str, Any]:
        if self._protection is None:
            self._hear()
        try:
            answer = self.channel.receive(timeout_s)[0]
        except ChannelTimeout:
            self.end()
            raise Failed(Outcome.TIMED_OUT, f"no answer in {timeout_s:g} s", Trick.EXHAUSTS) from None
        except NotAMessage as error:
            self.end()
            raise Failed(Outcome.REJECTED, f"it sent {error}", Trick.FORGES) from None
        except ChannelClosed:
            raise self._crashed() from None
        if answer.get("nonce") != self._asked.popleft():
            self.end()
            raise Failed(Outcome.REJECTED, "an answer to what was not asked", Trick.FORGES)
        if answer.get("broken"):  # by an illegal address, say: no later call can succeed in that process
            self.end()
            said = str(answer.get("error"))
            raise Failed(Outcome.CRASHED, said, trick_of_break(said))
        return answer

    def _crashed(self) -> Failed:
        """It ended before it answered: by its own doing, or by a limit."""
        how = self.end(by_itself=True)
        status_says_nothing = how.startswith("exited")  # who does that hopes to be taken for right
        return Failed(Outcome.CRASHED, how, Trick.FORGES if status_says_nothing else Trick.EXHAUSTS)

    def freeze(self) -> None:
        """Stop it, with all it started, where it is."""
        self.tree.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self.tree.signal(signal.SIGCONT)

    def census(self) -> Census:
        """How much there is of it now."""
        return self.tree.census()

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

    def end(self, *, by_itself: bool = False) -> str:
        """Kill it with all it started; says how it ended. `by_itself`: it seems to be ending without that."""
        if not self.alive:
            return "ended before"
        self.alive = False
        self.channel.close()
        self.arena.close()
        status, ended_for = self.workers.finish(self.pid, by_itself=by_itself)
        scratch.remove(self.confinement.folder)
        if self.device_arena is not None:
            self.device_arena.close()
        if ended_for:
            return f"ended by the judge: {ended_for}"
        if os.WIFSIGNALED(status):
            return f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
        return f"exited with status {os.WEXITSTATUS(status)} without an answer"
