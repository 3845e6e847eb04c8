"""A filter of system calls: what no kernel of tensors needs, and by which a process reaches beyond itself, is refused.

Refused calls fail with EPERM: libraries that merely try go on. The program is classic BPF, written here because it is
short and libseccomp is not on every machine: load the number, compare it with each refused one in turn.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from dataclasses import dataclass

from akg_dynamo.agents.verifier.sandbox import kernel

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_AT, _ARCH_AT, _FIRST_ARGUMENT_AT = 0, 4, 16
_ALLOW, _FAIL, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_X32 = 0x40000000
_SET_FILTER, _LEAVE_SPECULATION = 1, 4
"""Without the second, old kernels switch a mitigation on that slows the process down, and with it what is timed."""
_NO_NEW_PRIVS = 38
_AF_UNIX, _AF_INET, _AF_INET6 = 1, 2, 10
_NEW_NAMESPACES = 0x7E020080  # every CLONE_NEW* flag

REFUSED = (
    # other processes' memory, and this one's past
    "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "process_mrelease", "kcmp", "pidfd_getfd",
    "perf_event_open", "userfaultfd", "lookup_dcookie",
    # the file system's shape, and files by other names than paths
    "mount", "umount2", "pivot_root", "chroot", "open_tree", "move_mount", "fsopen", "fsconfig", "fsmount", "fspick",
    "mount_setattr", "name_to_handle_at", "open_by_handle_at", "quotactl", "fanotify_init",
    # namespaces
    "unshare", "setns",
    # the kernel and the machine
    "bpf", "kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module", "reboot", "swapon",
    "swapoff", "sethostname", "setdomainname", "settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "acct",
    "iopl", "ioperm", "modify_ldt", "vhangup", "syslog",
    # keys
    "add_key", "request_key", "keyctl",
    # memory that outlives the process, or counts as nobody's
    "shmget", "shmat", "shmctl", "semget", "msgget", "mq_open", "memfd_secret",
    # calls made by the kernel on behalf of the process, which no filter sees
    "io_uring_setup", "io_uring_enter", "io_uring_register",
)  # fmt: skip

ATTRIBUTES = (
    "chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "fchown", "lchown", "fchownat", "utime", "utimes", "futimesat",
    "utimensat", "setxattr", "lsetxattr", "fsetxattr", "setxattrat", "removexattr", "lremovexattr", "fremovexattr",
    "removexattrat", "file_setattr",
)  # fmt: skip
"""What Landlock does not see: modes, owners, times and attributes of files that may not be written."""


@dataclass(frozen=True)
class Rules:
    """What differs between processes.

    unix_sockets, internet_sockets: allowed (all other families never are). memory_files: memfd_create is allowed.
    signals: nothing else keeps it from signalling processes that are not its own, so that it may signal only itself.
    attributes: nothing else keeps it from changing those of its user's files.
    """

    unix_sockets: bool = False
    internet_sockets: bool = False
    memory_files: bool = False
    signals: bool = False
    attributes: bool = False


def install(rules: Rules) -> None:
    """Filter this process's calls, and those of all it starts, from now on. OSError where there are no filters."""
    code = program(rules)
    buffer = ctypes.create_string_buffer(code)
    described = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer)))
    kernel.prctl(_NO_NEW_PRIVS, 1)
    kernel.call("seccomp", _SET_FILTER, _LEAVE_SPECULATION, described)


def program(rules: Rules) -> bytes:
    """The instructions."""
    numbers = kernel.numbers()
    if not numbers:
        raise OSError(errno.ENOSYS, f"no table of system calls for {kernel.MACHINE}")
    fail = [_do(_RETURN, _FAIL | errno.EPERM)]
    code = [_do(_LOAD, _ARCH_AT), _jump(_EQUAL, kernel.AUDIT_ARCH[kernel.MACHINE], 1, 0), _do(_RETURN, _KILL)]
    code.append(_do(_LOAD, _NUMBER_AT))
    if kernel.MACHINE == "x86_64":
        code += [_jump(_AT_LEAST, _X32, 0, 1), _do(_RETURN, _FAIL | errno.ENOSYS)]
    refused = [*REFUSED, *(() if rules.memory_files else ("memfd_create",))]
    refused += ATTRIBUTES if rules.attributes else ()
    if rules.signals:
        refused += ["tkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_open", "pidfd_send_signal"]
    for name in refused:
        if name in numbers:
            code += _on(numbers[name], fail)
    # The C library falls back to clone, whose flags can be seen.
    code += _on(numbers["clone3"], [_do(_RETURN, _FAIL | errno.ENOSYS)])
    code += _on(numbers["clone"], [_argument(0), _jump(_ANY_BIT, _NEW_NAMESPACES, 0, 1), *fail, _allow()])
    families = (_AF_UNIX,) * rules.unix_sockets + (_AF_INET, _AF_INET6) * rules.internet_sockets
    code += _on(numbers["socket"], _only(*families) if families else fail)
    code += _on(numbers["socketpair"], _only(_AF_UNIX))
    code += _on(numbers["prlimit64"], _only(0))
    if rules.signals:
        code += _on(numbers["kill"], _only(0, os.getpid()))
        code += _on(numbers["tgkill"], _only(os.getpid()))
    return b"".join([*code, _allow()])


def _do(operation: int, value: int) -> bytes:
    return struct.pack("HBBI", operation, 0, 0, value)


def _jump(test: int, value: int, if_so: int, if_not: int) -> bytes:
    return struct.pack("HBBI", test, if_so, if_not, value)


def _argument(i: int) -> bytes:
    return _do(_LOAD, _FIRST_ARGUMENT_AT + 8 * i)  # its low half: both machines are little-endian


def _allow() -> bytes:
    return _do(_RETURN, _ALLOW)


def _on(number: int, then: list[bytes]) -> list[bytes]:
    """What to do for that call; `then` must end by returning."""
    return [_jump(_EQUAL, number, 0, len(then)), *then]


def _only(*values: int) -> list[bytes]:
    """Allow the call if its first argument is one of these."""
    tests = [_jump(_EQUAL, value, len(values) - i, 0) for i, value in enumerate(values)]
    return [_argument(0), *tests, _do(_RETURN, _FAIL | errno.EPERM), _allow()]
