"""A process with torch loaded and nothing running in it, which forks the judge and the workers.

    python -m akg_dynamo.agents.verifier.zygote CONTROL_FD JUDGE_FD [MODULE...]

Loading torch costs a second; a fork of a process that has loaded it costs milliseconds. The zygote stays single
threaded: one threaded torch operation before a fork hangs the child, whose copy of the thread pool has no threads.
Nor does it touch CUDA, which a child of a process that did cannot use. The MODULEs are loaded too, if they are there.

It ends when the process that started it ends, and its children die with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import os
import select
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from akg_dynamo.agents.verifier.channel import Channel

_PR_SET_PDEATHSIG = 1
_POLL_S = 2.0


def _die_with_parent(parent: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the call
        os._exit(0)


def _silence() -> None:
    """What a candidate prints is nobody's business: verdicts travel over the channel."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)


def _close_all_but(keep: set[int]) -> None:
    for fd in [int(name) for name in os.listdir("/proc/self/fd")]:
        if fd > 2 and fd not in keep:
            with contextlib.suppress(OSError):  # the listing's own descriptor is closed already
                os.close(fd)


def serve(requests: Channel, control_fd: int, starter: int) -> None:
    """Fork a worker whenever the judge asks for one, until it ends or this process's starter does."""
    import socket

    from akg_dynamo.agents.verifier import worker
    from akg_dynamo.agents.verifier.channel import Channel, ChannelClosed

    zygote = os.getpid()
    statuses: dict[int, int] = {}
    while True:
        readable, _, _ = select.select([control_fd, requests.fileno()], [], [], _POLL_S)
        if control_fd in readable or os.getppid() != starter:
            break  # nothing is ever sent on it: readable means closed
        if requests.fileno() not in readable:
            continue
        try:
            message, _, fds = requests.receive_with_fds(2)
        except ChannelClosed:
            break  # the judge is gone, and with it whatever this process is for
        if message["op"] == "fork":
            pid = os.fork()
            if pid == 0:
                _die_with_parent(zygote)
                os.setpgid(0, 0)
                _silence()
                _close_all_but(set(fds))
                worker.main(Channel(socket.socket(fileno=fds[0])), fds[1])
                os._exit(0)
            for fd in fds:
                os.close(fd)
            requests.send({"pid": pid})
        else:  # "reap": the judge has seen the end of that worker's channel, or has killed it
            pid = message["pid"]
            if pid not in statuses:
                _, statuses[pid] = os.waitpid(pid, 0)
            requests.send({"status": statuses.pop(pid)})


def main() -> None:
    """Load, fork the judge, then fork a worker whenever the judge asks for one."""
    control_fd, judge_fd = int(sys.argv[1]), int(sys.argv[2])
    starter = os.getppid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C is the user's program's to handle
    os.environ["OPENBLAS_NUM_THREADS"] = "1"

    # Loaded before the fork, so that every child has them.
    import socket

    import torch

    from akg_dynamo.agents.verifier import referee
    from akg_dynamo.agents.verifier.channel import Channel, pair

    for name in sys.argv[3:]:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    torch.empty(1)
    gc.collect()
    gc.freeze()
    threads = len(os.listdir("/proc/self/task"))
    assert threads == 1, f"{threads} threads before the fork: the children would hang"

    zygote = os.getpid()
    requests, judge_side = pair()
    judge_pid = os.fork()
    if judge_pid == 0:
        _die_with_parent(zygote)
        os.close(control_fd)
        requests.close()
        referee.main(Channel(socket.socket(fileno=judge_fd)), judge_side)
        os._exit(0)
    os.close(judge_fd)
    judge_side.close()

    serve(requests, control_fd, starter)
    with contextlib.suppress(ProcessLookupError):
        os.kill(judge_pid, signal.SIGKILL)
    os._exit(0)


if __name__ == "__main__":
    main()
