"""Whose process it is: as root, an identity that owns nothing; as anyone else, one whose processes are counted apart.

The kernel does not limit how many processes root has, and root's files are open to root's processes.
"""

from __future__ import annotations

import contextlib
import os
import struct

from akg_dynamo.agents.verifier.sandbox import kernel
from akg_dynamo.agents.verifier.sandbox.namespaces import Surroundings, own_user

_FIRST_ID = 0x6A000000  # far from the ids that systems give to users, services and containers
_NOBODY = 65534
_VERSION_3 = 0x20080522
_DUMPABLE, _KEEP_CAPABILITIES, _SECURE_BITS, _AMBIENT = 4, 8, 28, 47
_NO_SETUID_FIXUP = 1 << 2
_RAISE, _CLEAR = 2, 4
_DAC_OVERRIDE, _DAC_READ_SEARCH, _SETGID, _SETUID = 1, 2, 6, 7


def held() -> int:
    """The capabilities that this process may use, as bits."""
    with open("/proc/self/status", encoding="ascii") as lines:
        return next(int(line.split()[1], 16) for line in lines if line.startswith("CapPrm:"))


def become_nobody(owned: list[str], *, files_are_restricted: bool) -> int:
    """As root: take a user id that nobody has, with its own count of processes. OSError where that cannot be.

    It goes on reading what root reads, since Python and its packages may be root's, and owns nothing but `owned`.
    """
    capabilities = held()
    reading = 1 << _DAC_READ_SEARCH & capabilities
    if not reading and files_are_restricted:  # what can be reached is listed: it may as well be written
        reading = 1 << _DAC_OVERRIDE & capabilities
    if not reading or not capabilities >> _SETUID & 1 or not capabilities >> _SETGID & 1:
        raise OSError(1, "root without the capabilities to change its identity")
    with contextlib.suppress(OSError):  # access() counts capabilities, by which compilers choose their temporary folder
        kernel.prctl(_SECURE_BITS, _NO_SETUID_FIXUP)
    chosen = _FIRST_ID + int.from_bytes(os.urandom(3), "little")
    for uid in (chosen, _NOBODY):
        try:
            for path in owned:
                os.chown(path, uid, uid)
            kernel.prctl(_KEEP_CAPABILITIES, 1)
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            break
        except OSError:
            if uid == _NOBODY:
                raise
    _keep(reading)
    return uid


def give_up(*, files_are_restricted: bool) -> None:
    """Keep the identity, without what root may do beyond its own files."""
    reaching = 1 << _DAC_OVERRIDE | 1 << _DAC_READ_SEARCH
    _keep(reaching & held() if files_are_restricted and os.geteuid() == 0 else 0)


def count_apart(surroundings: Surroundings) -> None:
    """As a user: have this process and what it starts counted from zero. OSError where that cannot be."""
    if not surroundings.user:
        raise OSError(1, "no user namespaces")
    own_user()


def _keep(capabilities: int) -> None:
    low, high = capabilities & 0xFFFFFFFF, capabilities >> 32
    header = struct.pack("Ii", _VERSION_3, 0)
    kernel.prctl(_AMBIENT, _CLEAR)
    kernel.call("capset", header, struct.pack("IIIIII", low, low, low, high, high, high))
    for number in range(64):
        if capabilities >> number & 1:
            kernel.prctl(_AMBIENT, _RAISE, number)
    kernel.prctl(_DUMPABLE, 1)  # its own /proc/self stays its own
