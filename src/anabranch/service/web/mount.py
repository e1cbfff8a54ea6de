"""The pages of runs and flows in the service's own web server: Bokeh's application with the service's routes in it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import quote

from bokeh.application.handlers.handler import Handler
from tornado.httputil import HTTPServerRequest
from tornado.ioloop import IOLoop
from tornado.web import Application, RequestHandler

from anabranch.base.errors import RunStoreError
from anabranch.monitoring.pages.documents import applications
from anabranch.monitoring.pages.guard import PagesTornado, hardened
from anabranch.monitoring.pages.library import Library
from anabranch.runs.store.opening import store_to_show
from anabranch.runs.store.relational import RelationalRunStore
from anabranch.runs.store.slot_queue import SlotQueue
from anabranch.runs.store.slots import RUNNING, WAITING
from anabranch.service.web.guard import FORMS, OPERATOR, Guard
from anabranch.service.web.server import JsonHandler, Route, log_request

UNUSED_SESSION_MS = 15_000
_FORMS = FORMS.strip("/")  # addresses are relative, so that a proxy may serve the pages below another path


class ServiceDesk:
    """What a service knows of runs that have not begun, and what it does for who may ask.

    Parameters
    ----------
    store
        The run store, with the registry in it.
    """

    def __init__(self, store: RelationalRunStore) -> None:
        self._queue = SlotQueue(store.database)

    def standing(self, run_id: str) -> str | None:
        """What is known of a run that is not recorded; None if nothing is."""
        slot = self._queue.get(run_id)
        if slot is None:
            return None
        if slot.state == WAITING:
            why = f": {slot.message}" if slot.message else ""
            return f"Run {run_id} of flow {slot.flow_name} waits to begin, at {slot.due:%Y-%m-%d %H:%M:%S %Z}{why}"
        if slot.state == RUNNING:
            return f"Run {run_id} of flow {slot.flow_name} is about to begin, at {slot.owner}"
        return f"Run {run_id} of flow {slot.flow_name} did not begin: {slot.state}: {slot.message}"

    def run_links(self, run_id: str, state: str, role: str) -> Sequence[tuple[str, str]]:
        """Addresses of the forms for a run, with texts."""
        verbs = {"Running": ["cancel"], "Waiting": ["cancel"], "Success": [], "Paused": ["approve", "resume"]}
        known = verbs.get(state, ["resume"]) if role == OPERATOR else []
        return [(f"{_FORMS}/{verb}?run={quote(run_id, safe='')}", f"{verb}…") for verb in known]

    def flow_links(self, name: str, role: str, *, paused: bool | None) -> Sequence[tuple[str, str]]:
        """Addresses of the forms for a registered flow, with texts."""
        if role != OPERATOR:
            return []
        flow = quote(name, safe="")
        links = [(f"{_FORMS}/run?flow={flow}", "run…")]
        if paused is not None:
            links.append((f"{_FORMS}/pause?flow={flow}", f"let its schedule {'go on' if paused else 'rest'}…"))
        return links

    def counts(self) -> str:
        """How many runs wait and run, in words; nothing if none does."""
        try:
            counts = self._queue.counts()
        except RunStoreError:
            return ""
        parts = [
            f"{counts[state]:,} {text}"
            for state, text in ((WAITING, "wait to begin"), (RUNNING, "go on"))
            if counts.get(state)
        ]
        return ", ".join(parts)


class _RoleHandler(Handler):  # type: ignore[misc]  # Bokeh's annotations are left out
    """Lets a page know who looks at it. Only what is shown depends on that: each request is checked by itself."""

    def __init__(self, guard: Guard) -> None:
        super().__init__()
        self._guard = guard

    def modify_document(self, doc: Any) -> None:
        pass

    def process_request(self, request: HTTPServerRequest) -> dict[str, Any]:
        return {"role": self._guard.role_of(request) or ""}


class _Mounted(PagesTornado):
    """Bokeh's web application, without what its handlers would let browsers do."""

    def find_handler(self, request: HTTPServerRequest, **kwargs: Any) -> Any:
        delegate = super().find_handler(request, **kwargs)
        if not issubclass(delegate.handler_class, JsonHandler):
            delegate.handler_class = hardened(delegate.handler_class)
        return delegate


def mounted(
    store: RelationalRunStore, guard: Guard, routes: Sequence[Route], other: type[RequestHandler]
) -> tuple[Application, Callable[[], Awaitable[object]]]:
    """The application of a `WebServer` that has the pages, too, begun; and what stops it.

    It checks nobody: the guard is before it.

    Parameters
    ----------
    store
        The run store, with the registry in it.
    guard
        Knows who looks.
    routes
        Of the API, and of forms.
    other
        Answers for all other paths.
    """
    logging.getLogger("bokeh").setLevel(logging.ERROR)  # it tells of each browser that comes, and that has gone
    pages = applications(Library(store_to_show, desk=ServiceDesk(store)))
    for page in pages.values():
        page.add(_RoleHandler(guard))
    app = _Mounted(
        pages,
        absolute_url="",
        extra_patterns=list(routes),
        extra_websocket_origins=["*"],  # the guard has compared it with the host before
        include_headers=[],  # what is in them would be in the page: the cookie, for one
        include_cookies=[],
        check_unused_sessions_milliseconds=UNUSED_SESSION_MS,
        unused_session_lifetime_milliseconds=UNUSED_SESSION_MS,
        stats_log_frequency_milliseconds=3_600_000,
        redirect_root=False,
        use_index=False,
        default_handler_class=other,
        log_function=log_request,
    )
    app.initialize(IOLoop.current())
    app.start()
    return app, app.end
