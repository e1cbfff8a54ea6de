"""A web server in a thread of this process that shows pages of runs, on loopback and behind a token."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
import threading
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from anabranch.base.errors import PagesError
from anabranch.monitoring.metrics import Metrics
from anabranch.monitoring.pages.library import ChildActions, Library

if TYPE_CHECKING:
    from anabranch.monitoring.pages.guard import GuardedTornado

HOST = "127.0.0.1"
START_S = 20.0  # importing Bokeh takes half a second; on a busy machine many times that
STOP_S = 5.0  # a page that hangs must not keep the process: its thread ends with it
PUMP_S = 0.5
UNUSED_SESSION_MS = 15_000

_log = logging.getLogger("anabranch.dashboard")


class Pages:
    """The pages of a library's runs, served until `close`.

    Parameters
    ----------
    library
        The runs.
    port
        0 for any that is free.

    Raises
    ------
    PagesError
        The port cannot be had, or the server does not start.
    """

    def __init__(self, library: Library, *, port: int = 0) -> None:
        self.library = library
        self.metrics = Metrics()
        """An observer for the runs of this process; what it counts is served as ``/metrics``."""
        self._token = secrets.token_urlsafe(32)
        self._socket = _bound(port)
        self.port: int = self._socket.getsockname()[1]
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self._app: GuardedTornado
        self._thread = threading.Thread(target=self._serve, name="anabranch-pages", daemon=True)
        self._thread.start()
        if not self._ready.wait(START_S) or self._error is not None:
            raise PagesError(f"the live pages could not be started: {self._error or f'no answer in {START_S:g} s'}")

    def address(self, run_id: str | None = None) -> str:
        """Address of a run's page, or of the list of runs, with the token: who has it may see and cancel runs."""
        page = f"run?id={quote(run_id, safe='')}&" if run_id else "?"
        return f"http://{HOST}:{self.port}/{page}token={self._token}"

    @property
    def is_open(self) -> bool:
        """Whether it serves."""
        return self._thread.is_alive() and self._error is None

    @property
    def sessions(self) -> int:
        """Pages that browsers have open, or had a moment ago."""
        return self._app.sessions

    def close(self) -> None:
        """Stop serving. What runs in child processes is cancelled, as the pages were its only owner."""
        if self._thread.is_alive():
            with contextlib.suppress(RuntimeError):  # the loop has just ended by itself
                self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(STOP_S)
        actions = self.library.actions
        if isinstance(actions, ChildActions):
            actions.close()

    def __enter__(self) -> Pages:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # In the thread ----------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:  # of a thread that nobody asks; the run goes on without its page
            self._error = error
            if self._ready.is_set():
                _log.exception("the live pages have stopped")
        finally:
            self._ready.set()

    async def _main(self) -> None:
        from tornado.httpserver import HTTPServer
        from tornado.ioloop import IOLoop

        from anabranch.monitoring.pages.documents import applications
        from anabranch.monitoring.pages.guard import Gate, GuardedTornado, MetricsPage

        bokeh_log = logging.getLogger("bokeh.server")
        if bokeh_log.level == logging.NOTSET:  # it tells of every browser that comes and goes, on the run's terminal
            bokeh_log.setLevel(logging.ERROR)
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        hosts = [f"{name}:{self.port}" for name in (HOST, "localhost")]
        app = self._app = GuardedTornado(
            applications(self.library),
            Gate(self._token, hosts, f"anabranch-{self.port}"),
            absolute_url="",
            extra_patterns=[("/metrics", MetricsPage, {"text": self.metrics.text})],
            extra_websocket_origins=hosts,
            include_headers=[],  # what is in them would be in the page: the cookie, for one
            include_cookies=[],
            check_unused_sessions_milliseconds=UNUSED_SESSION_MS,
            unused_session_lifetime_milliseconds=UNUSED_SESSION_MS,
            stats_log_frequency_milliseconds=3_600_000,
            redirect_root=False,
            use_index=False,
        )
        app.initialize(IOLoop.current())
        app.start()
        server = HTTPServer(app)
        server.add_socket(self._socket)
        self._ready.set()
        try:
            while not await _within(self._stop.wait(), PUMP_S):
                self.library.pump()
        finally:
            server.stop()
            await app.end()
            await server.close_all_connections()


async def _within(wait: Coroutine[Any, Any, Any], seconds: float) -> bool:
    """Whether something came about within so many seconds."""
    try:
        await asyncio.wait_for(wait, seconds)
    except TimeoutError:
        return False
    return True


def _bound(port: int) -> socket.socket:
    try:
        if not 0 <= port <= 65_535:  # Python would not close the socket that it could not bind
            raise OSError("ports are numbers from 0 to 65535")
        found = socket.create_server((HOST, port), backlog=64)
    except OSError as error:
        raise PagesError(f"live pages on port {port}: {error}; name another port, or 0 for any free port") from error
    found.setblocking(False)  # tornado accepts until there is nobody left
    return found
