"""What the cost model knows of a GPU: round figures, good enough to choose between mappings, never to report."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """A GPU in the figures that decide how a memory-bound kernel is mapped.

    program_bytes_s: what one program of a reduction draws from memory on its own: it is waiting most of the time.
    again_bytes_s: the same of one that goes through a long row several times, and computes more.
    phase_s: what one more launch on the same stream adds, the drain of the one before included.
    resident: how many such programs a processor holds. past_cache: whether reading past what is in the cache was seen
    to pay (where it was not, the compiler also makes worse loops of it).
    """

    processors: int
    bytes_s: float
    program_bytes_s: float = 30e9
    again_bytes_s: float = 10e9
    phase_s: float = 2.5e-6
    resident: int = 3
    l2_bytes: int = 40 << 20
    past_cache: bool = False

    @property
    def slots(self) -> int:
        """How many programs of a reduction run at once."""
        return self.processors * self.resident

    def alone_s(self, moved: float, programs: int, rate: float | None = None) -> float:
        """How long a phase takes that moves this many bytes in so many equal programs: its last wave may be thin.

        rate: what a program of the last wave draws, if not `program_bytes_s`.
        """
        programs = max(1, programs)
        each = moved / programs
        full, rest = divmod(programs, self.slots)
        last = max(rest * each / self.bytes_s, each / (rate or self.program_bytes_s)) if rest else 0.0
        return full * self.slots * each / self.bytes_s + last


_DEVICES = {
    "sm_80": Device(108, 1.7e12),
    "sm_86": Device(84, 0.8e12, l2_bytes=6 << 20),
    "sm_89": Device(128, 0.9e12, l2_bytes=64 << 20),
    "sm_90": Device(132, 4.3e12, past_cache=True),
    "sm_100": Device(148, 7e12, l2_bytes=100 << 20),
}


def device(arch: str) -> Device:
    """The figures of an architecture ("sm_90"); those of a recent one when it is not known."""
    return _DEVICES.get(arch.rstrip("af"), _DEVICES["sm_90"])
