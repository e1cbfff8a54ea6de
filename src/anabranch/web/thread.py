"""A server in a thread of this process, with a loop of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anabranch.web.server import Server

START_S = 20.0  # importing Bokeh takes half a second; on a busy machine many times that
STOP_S = 5.0  # what hangs must not keep the process: the thread ends with it

_log = logging.getLogger("anabranch.web")


class ServerThread:
    """Serves until it is closed.

    Parameters
    ----------
    server
        What is to serve.
    sockets
        Where it listens.
    name
        Of the thread.
    turn
        Done again and again in that thread, after so many seconds each time.

    Raises
    ------
    OSError
        It does not start.
    """

    def __init__(
        self,
        server: Server,
        sockets: Sequence[socket.socket],
        *,
        name: str,
        turn: Callable[[], object] = lambda: None,
        every_s: float | None = None,
    ) -> None:
        self._server = server
        self._sockets = sockets
        self._turn = turn
        self._every_s = every_s
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._has_started = False
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()
        if not self._ready.wait(START_S):
            raise TimeoutError(f"no answer in {START_S:g} s")
        if not self._has_started:
            for each in sockets:
                each.close()
            raise OSError(f"{type(self._error).__name__}: {self._error}") from self._error

    @property
    def is_open(self) -> bool:
        """Whether it serves."""
        return self._thread.is_alive() and self._error is None

    def close(self) -> None:
        """Serve no more."""
        if self._thread.is_alive():
            with contextlib.suppress(RuntimeError):  # the loop has just ended by itself
                self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(STOP_S)

    # In the thread ----------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:  # of a thread that nobody asks; whoever works beside it goes on
            self._error = error
            if self._ready.is_set():
                _log.exception("%s has stopped", self._thread.name)
        finally:
            self._ready.set()

    async def _main(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._server.start(self._sockets)
        self._has_started = True
        self._ready.set()
        try:
            while not self._stop.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), self._every_s)
                    break
                self._turn()
        finally:
            await self._server.close()
