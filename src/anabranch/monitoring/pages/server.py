"""The pages of runs, served from a thread of this process, on loopback and behind a token."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING
from urllib.parse import quote

from anabranch.base.errors import PagesError
from anabranch.monitoring.metrics import Metrics
from anabranch.monitoring.metrics_export import metrics_route
from anabranch.monitoring.pages.library import ChildActions, Library
from anabranch.monitoring.pages.log_route import log_route
from anabranch.web.guard import TOKEN, Guard
from anabranch.web.listening import open_sockets
from anabranch.web.server import Server
from anabranch.web.thread import ServerThread

if TYPE_CHECKING:
    from anabranch.web.bokeh import BokehPages
    from anabranch.web.handlers import Route

HOST = "127.0.0.1"
PUMP_S = 0.5


class Pages:
    """The pages of a library's runs, served until `close`.

    Parameters
    ----------
    library
        The runs.
    port
        0 for any free port.

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
        self._app: BokehPages
        try:
            self._sockets = open_sockets(HOST, port)
        except OSError as error:
            raise PagesError(
                f"live pages on port {port}: {error}; name another port, or 0 for any free port"
            ) from error
        self.port: int = self._sockets[0].getsockname()[1]
        self._guard = Guard(token=self._token, hosts=[f"{name}:{self.port}" for name in (HOST, "localhost")])
        server = Server(self._guard, [metrics_route(self.metrics.text), log_route(library)], make=self._make)
        try:
            self._thread = ServerThread(
                server, self._sockets, name="anabranch-pages", turn=library.pump, every_s=PUMP_S
            )
        except OSError as error:
            raise PagesError(f"the live pages could not be started: {error}") from error

    def _make(self, routes: list[Route]) -> BokehPages:
        from anabranch.monitoring.pages.documents import applications  # in the server's thread: Bokeh takes its time
        from anabranch.web.bokeh import BokehPages

        self._app = BokehPages(applications(self.library), self._guard, routes)
        return self._app

    def address(self, run_id: str | None = None) -> str:
        """Address of a run's page, or of the list of runs, with the token: who has it may see and cancel runs."""
        page = f"run?id={quote(run_id, safe='')}&" if run_id else "?"
        return f"http://{HOST}:{self.port}/{page}{TOKEN}={self._token}"

    @property
    def is_open(self) -> bool:
        """Whether it serves."""
        return self._thread.is_open

    @property
    def sessions(self) -> int:
        """Pages that browsers have open, or had a moment ago."""
        return len(self._app.sessions)

    def close(self) -> None:
        """Stop serving. What runs in child processes is cancelled, as the pages were its only owner."""
        self._thread.close()
        actions = self.library.actions
        if isinstance(actions, ChildActions):
            actions.close()

    def __enter__(self) -> Pages:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
