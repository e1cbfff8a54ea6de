"""Connections of a server: so many at once, and those of strangers give way, so that they keep nobody out."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import selectors
import socket
import sys
from collections.abc import Iterable
from typing import Any, cast

from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream

from anabranch.web.few import Few

MAX_CONNECTIONS = 512  # at once
_SHORTAGE = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

_log = logging.getLogger("anabranch.web")


def most_connections() -> int:
    """How many there may be: at most half of the files that this process may open, as its runs need some, too."""
    if sys.platform == "win32":  # which has no such limit
        return MAX_CONNECTIONS
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if limit == resource.RLIM_INFINITY else max(1, min(MAX_CONNECTIONS, limit // 2))


class BoundedServer(HTTPServer):
    """Serves so many connections.

    Where there are as many, the oldest one over which nobody has shown a token gives way to the next; if each has
    shown one, the next is closed. So who holds connections, or opens many, does not keep out who has a token.
    """

    _most: int
    _strangers: dict[IOStream, None]
    """In the order in which they came."""
    _known: dict[IOStream, None]

    def initialize(self, *args: Any, **kwargs: Any) -> None:
        """Begin without connections."""
        super().initialize(*args, **kwargs)
        self._most, self._strangers, self._known = most_connections(), {}, {}

    def add_sockets(self, sockets: Iterable[socket.socket]) -> None:
        """Listen."""
        super().add_sockets([cast(socket.socket, _Door(each, self)) for each in sockets])

    def _handle_connection(self, connection: socket.socket, address: Any) -> None:
        """Take a connection, unless it was reset before TLS has begun, which Tornado takes for a bug of ours."""
        try:
            connection.getpeername()
            super()._handle_connection(connection, address)
        except OSError:
            connection.close()

    def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        """Serve a connection, or close it."""
        if len(self._strangers) + len(self._known) >= self._most:
            self._strangers, self._known = _open_ones(self._strangers), _open_ones(self._known)
        if len(self._strangers) + len(self._known) >= self._most and not self.drop_stranger():
            stream.close()
            return
        self._strangers[stream] = None
        super().handle_stream(stream, address)

    def note_known(self, stream: IOStream) -> None:
        """Keep a connection: a token was shown over it."""
        if stream in self._strangers:
            del self._strangers[stream]
            self._known[stream] = None

    def drop_stranger(self) -> bool:
        """Close the oldest connection of a stranger; whether there was one."""
        for stream in list(self._strangers):
            del self._strangers[stream]
            if not stream.closed():
                stream.close()
                return True
        return False


def _open_ones(streams: dict[IOStream, None]) -> dict[IOStream, None]:
    return {each: None for each in streams if not each.closed()}


class _Door:
    """A socket that listens, as far as Tornado uses it, and goes on where the process can open no more files.

    Tornado would try again at once and for ever, with an error in the log each time.
    """

    def __init__(self, listening: socket.socket, server: BoundedServer) -> None:
        self.fileno = listening.fileno
        self._listening = listening
        self._server = server
        self._few = Few(most=1)
        self._spare = _open_spare()

    def accept(self) -> tuple[socket.socket, Any]:
        """Take a connection; where there is no file for it, one of a stranger's gives way, or it is closed."""
        try:
            return self._listening.accept()
        except OSError as error:
            if error.errno not in _SHORTAGE:
                raise
            if self._is_waited_at():
                if (left_out := self._few.count()) is not None:
                    _log.warning("connections are closed: %s%s", error.strerror, left_out)
                if not self._server.drop_stranger():
                    self._turn_away()
            raise BlockingIOError from error  # whoever still waits is taken in the next turn of the loop

    def _is_waited_at(self) -> bool:
        """Whether there is a connection to take: Linux looks for a file first."""
        with getattr(selectors, "PollSelector", selectors.SelectSelector)() as found:  # others need a file themselves
            found.register(self._listening, selectors.EVENT_READ)
            return bool(found.select(0))

    def _turn_away(self) -> None:
        """Close the connection that has waited longest, with a file that was kept for this."""
        if self._spare is not None:
            os.close(self._spare)
            with contextlib.suppress(OSError):
                self._listening.accept()[0].close()
        self._spare = _open_spare()

    def close(self) -> None:
        """Listen no more."""
        self._listening.close()
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None


def _open_spare() -> int | None:
    try:
        return os.open(os.devnull, os.O_RDONLY)
    except OSError:
        return None
