"""Frames on a socket between a worker and a child of its own: a kind and some parts, each with its length before it."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Sequence
from typing import TypeAlias

Part: TypeAlias = bytes | bytearray | memoryview

CALL, BEGUN, VALUE, RAISED, LOGGED, LEARNT = range(6)
"""What a frame is: a call, to the child; and from it, that it has loaded it, what it gave or raised, log records, and
secrets to be masked."""

_HEAD = struct.Struct("<BI")
_LENGTH = struct.Struct("<Q")
JOINED_NBYTES = 65_536  # copying so little is cheaper than a system call for each part


class Channel:
    """Sends and receives whole frames; several threads may send."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._sending = threading.Lock()

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self.connection.fileno()

    def close(self) -> None:
        """Close the socket."""
        self.connection.close()

    def send(self, kind: int, *parts: Part) -> None:
        """Send a frame.

        Raises
        ------
        OSError
            The other side is gone, or takes nothing for as long as the socket's timeout.
        """
        head = _HEAD.pack(kind, len(parts)) + b"".join(_LENGTH.pack(len(part)) for part in parts)
        with self._sending:
            if sum(map(len, parts)) <= JOINED_NBYTES:
                self.connection.sendall(head + b"".join(parts))
                return
            self.connection.sendall(head)
            for part in parts:
                self.connection.sendall(part)

    def receive(self) -> tuple[int, Sequence[bytearray]] | None:
        """The next frame, in memory that may be written to; None once the other side has gone.

        Raises
        ------
        OSError
            Nothing came for as long as the socket's timeout, or the connection broke.
        """
        head = self._read(_HEAD.size)
        if head is None:
            return None
        kind, count = _HEAD.unpack(head)
        sizes = self._read(count * _LENGTH.size)
        parts = []
        for (size,) in _LENGTH.iter_unpack(sizes or b""):
            part = self._read(size)
            if part is None:
                return None
            parts.append(part)
        return (kind, parts) if len(parts) == count else None

    def _read(self, size: int) -> bytearray | None:
        data = bytearray(size)
        rest = memoryview(data)
        while rest:
            count = self.connection.recv_into(rest)
            if not count:
                return None
            rest = rest[count:]
        return data
