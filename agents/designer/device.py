"""What the cost model knows of a GPU: round figures, good enough to choose between mappings, never to report."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """A GPU in the figures that decide how a memory-bound kernel is mapped.

    program_bytes_s: what one program draws from memory on its own: it is waiting for memory most of the time.
    phase_s: what one more launch on the same stream adds, the drain of the one before included.
    """

    processors: int
    bytes_s: float
    program_bytes_s: float = 50e9
    phase_s: float = 2.5e-6
    threads: int = 2048  # resident, per processor
    registers: int = 65536  # per processor
    l2_bytes: int = 40 << 20

    def alone_s(self, moved: float, programs: int) -> float:
        """How long a phase takes that moves this many bytes in so many equal programs."""
        programs = max(1, programs)
        waves = -(-programs // (self.processors * 8))
        return max(moved / self.bytes_s, waves * moved / programs / self.program_bytes_s)


_DEVICES = {
    "sm_80": Device(108, 1.7e12),
    "sm_86": Device(84, 0.8e12, l2_bytes=6 << 20, threads=1536),
    "sm_89": Device(128, 0.9e12, l2_bytes=64 << 20, threads=1536),
    "sm_90": Device(132, 4.3e12),
    "sm_100": Device(148, 7e12, l2_bytes=100 << 20),
}


def device(arch: str) -> Device:
    """The figures of an architecture ("sm_90"); those of a recent one when it is not known."""
    return _DEVICES.get(arch.rstrip("af"), _DEVICES["sm_90"])
