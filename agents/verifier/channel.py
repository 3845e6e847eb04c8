"""Length-prefixed JSON over a Unix socket: the only thing a process that runs candidates may say to its judge.

JSON, because the reader of a pickle runs what the writer chose. Tensors travel through the arena, as raw bytes.
Messages towards a process that is trusted no more than its sender may carry a `blob` (a pickle) after the JSON.
"""

from __future__ import annotations

import array
import json
import select
import socket
import struct
import time
from collections.abc import Sequence
from typing import Any

_HEADER = struct.Struct("<II")  # bytes of JSON, bytes of blob
MAX_MESSAGE_BYTES = 64 << 20


class ChannelClosed(Exception):
    """The other end is gone: that process ended, by itself or killed."""


class NotAMessage(ChannelClosed):
    """The other end sent something else, and cannot be understood any more."""


class ChannelTimeout(Exception):
    """No complete message in the time allowed."""


class Channel:
    """One end of a stream socket that carries whole messages."""

    def __init__(self, sock: socket.socket, most_bytes: int = MAX_MESSAGE_BYTES) -> None:
        """`most_bytes`: of a message that is received."""
        self.sock = sock
        self.most_bytes = most_bytes

    def fileno(self) -> int:
        """For poll."""
        return self.sock.fileno()

    def close(self) -> None:
        """Close this end; the other reads `ChannelClosed`."""
        self.sock.close()

    def send(self, message: dict[str, Any], blob: bytes = b"", fds: Sequence[int] = ()) -> None:
        """Send one message, with open files where `fds` names some."""
        body = json.dumps(message).encode()
        data = _HEADER.pack(len(body), len(blob)) + body + blob
        try:
            if fds:
                ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
                sent = self.sock.sendmsg([data], ancillary)
                data = data[sent:]
            self.sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError, OSError) as error:
            raise ChannelClosed(str(error)) from error

    def receive(self, timeout_s: float | None = None) -> tuple[dict[str, Any], bytes]:
        """The next message and its blob."""
        message, blob, _ = self.receive_with_fds(0, timeout_s)
        return message, blob

    def receive_with_fds(self, max_fds: int, timeout_s: float | None = None) -> tuple[dict[str, Any], bytes, list[int]]:
        """The next message, its blob, and the files sent with it."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        fds: list[int] = []
        header = self._read(_HEADER.size, deadline, fds, max_fds)
        n_json, n_blob = _HEADER.unpack(header)
        if n_json + n_blob > self.most_bytes:
            raise NotAMessage(f"a message of {n_json + n_blob} bytes")
        body = self._read(n_json, deadline, fds, max_fds)
        blob = self._read(n_blob, deadline, fds, max_fds)
        try:
            message = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise NotAMessage("not a message") from error
        if not isinstance(message, dict):
            raise NotAMessage("not a message")
        return message, blob, fds

    def _read(self, size: int, deadline: float | None, fds: list[int], max_fds: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            if deadline is not None:
                left = deadline - time.monotonic()
                if left <= 0 or not readable([self.sock.fileno()], left):
                    raise ChannelTimeout
            try:
                if max_fds:
                    space = socket.CMSG_SPACE(max_fds * array.array("i").itemsize)
                    chunk, ancillary, _, _ = self.sock.recvmsg(size - len(data), space, socket.MSG_CMSG_CLOEXEC)
                    for level, kind, payload in ancillary:
                        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                            got = array.array("i")
                            got.frombytes(payload[: len(payload) - len(payload) % got.itemsize])
                            fds.extend(got)
                else:
                    chunk = self.sock.recv(size - len(data))
            except (ConnectionResetError, OSError) as error:
                raise ChannelClosed(str(error)) from error
            if not chunk:
                raise ChannelClosed("the process ended")
            data += chunk
        return bytes(data)


def readable(fds: Sequence[int], timeout_s: float) -> set[int]:
    """Those of the descriptors that can be read without waiting, be it that the other end is closed.

    By poll: select knows no descriptor above 1023, and whoever uses the judge may have more open.
    """
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return {fd for fd, _ in poll.poll(timeout_s * 1000)}


def pair() -> tuple[Channel, Channel]:
    """Two connected ends."""
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    return Channel(a), Channel(b)
