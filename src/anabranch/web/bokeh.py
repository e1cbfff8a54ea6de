"""Bokeh's pages in our server: with a bound on them, scripts known by a nonce, and an end that waits for no browser."""

from __future__ import annotations

import asyncio
import gc
import logging
import secrets
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from bokeh.application import Application
from bokeh.application.handlers.document_lifecycle import DocumentLifecycleHandler
from bokeh.document import Document
from bokeh.embed.server import server_html_page_for_session
from bokeh.protocol.exceptions import ProtocolError
from bokeh.server.tornado import BokehTornado
from bokeh.server.views.doc_handler import DocHandler
from bokeh.server.views.session_handler import SessionHandler
from bokeh.server.views.ws import WSHandler
from bokeh.util.token import get_session_id
from tornado.httputil import HTTPServerRequest
from tornado.ioloop import IOLoop
from tornado.web import RequestHandler

from anabranch.web.guard import Guard, root_of
from anabranch.web.handlers import Handler, NotFound, Route
from anabranch.web.headers import script_page
from anabranch.web.server import Served

MAX_SESSIONS = 64  # pages that are open at once: each keeps its own figures in this process
UNUSED_SESSION_MS = 15_000
LEFT_MS = 2_000  # without a browser, after which a page gives its place to another; if one comes, it is made again
LAST_S = 1.0  # that an end waits for browsers to be told
FAREWELLS = 1_000  # turns of the loop, of which two do
_log = logging.getLogger("anabranch.web")
SCRIPTS = ["bokeh", "bokeh-widgets"]  # all that pages use: tables, formulas and WebGL would be twice as much again


class BokehPages(Served, BokehTornado):  # type: ignore[misc]  # Bokeh's annotations are left out
    """Bokeh's web application; to be made in the thread of the server's loop.

    Parameters
    ----------
    pages
        Bokeh's applications, by path. A document's ``session_context.token_payload`` has the role of who looks.
    guard
        Knows who looks. It is before the application, which checks nobody.
    routes
        What there is beside the pages.
    """

    def __init__(self, pages: Mapping[str, Application], guard: Guard, routes: list[Route]) -> None:
        log = logging.getLogger("bokeh.server")
        if log.level == logging.NOTSET:  # it tells of every browser that comes and goes
            log.setLevel(logging.ERROR)
        for page in pages.values():
            page.add(_PageHandler(guard))
        self.sockets: set[_Socket] = set()
        self.door = asyncio.Lock()
        """Held while a page is made, so that no other counts in between."""
        super().__init__(
            pages,  # type: ignore[arg-type]  # mypy takes Tornado's application for the next one
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
            default_handler_class=NotFound,
        )
        self.initialize(IOLoop.current())
        self.start()

    @property
    def sessions(self) -> set[str]:
        """Ids of pages that browsers have open, or had a moment ago."""
        return {session.id for path in self.app_paths for session in self.get_sessions(path)}

    async def has_room(self) -> bool:
        """Whether another page may be opened; those that browsers have left make room first."""
        if len(self.sessions) >= MAX_SESSIONS:
            await self._discard(LEFT_MS)
        return len(self.sessions) < MAX_SESSIONS

    async def _cleanup_sessions(self) -> None:
        await self._discard(UNUSED_SESSION_MS)

    async def _discard(self, left_ms: int) -> None:
        before = len(self.sessions)
        for each in self._applications.values():
            await each._cleanup_sessions(left_ms)
        if len(self.sessions) < before:
            gc.collect()

    def handler_of(self, cls: type[RequestHandler]) -> type[RequestHandler]:
        """A handler of ours in place of Bokeh's; of those for pages of other servers, which open sessions, none."""
        if issubclass(cls, DocHandler):
            return _GuardedPage
        if issubclass(cls, WSHandler):
            return _Socket
        return NotFound if issubclass(cls, SessionHandler) else super().handler_of(cls)

    async def end(self) -> None:
        """Tell all browsers how things stand, let go of them, and stop; in the thread of its loop."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._tell_last(), LAST_S)
        for each in list(self.sockets):
            each.cut()
        for _ in range(FAREWELLS):  # what waited to be sent is told that it cannot be
            if self.sockets:
                await asyncio.sleep(0)
        self.stop(wait=False)  # from 3.10 on, Bokeh refuses to wait in the thread of its own loop

    async def _tell_last(self) -> None:
        """Bring all pages up to date, and have that sent."""
        for session in [each for path in self.app_paths for each in self.get_sessions(path)]:
            for callback in session.document.session_callbacks:
                try:
                    await callback.callback()
                except Exception as error:  # of one browser, which may have gone
                    _log.debug("a page could not be brought up to date for the last time: %s", error)


class _Document(Document):  # type: ignore[misc]
    """A page that leaves its garbage to be collected with that of others.

    Bokeh looks through the memory of the whole process for each page that it discards: half a second in which nothing
    else runs here, twenty or thirty times in a row after somebody has looked at as many pages.
    """

    def destroy(self, session: Any) -> None:
        self.remove_on_change(session)
        for each in (self.callbacks, self.models, self.modules):
            each.destroy()


class _PageHandler(DocumentLifecycleHandler):  # type: ignore[misc]  # others would move pages to other threads
    """Makes a page one of ours, and lets it know who looks at it.

    Only what is shown depends on that: each request is checked by itself.
    """

    def __init__(self, guard: Guard) -> None:
        super().__init__()
        self._guard = guard

    def modify_document(self, doc: Any) -> None:
        doc.__class__ = _Document  # Bokeh makes the documents itself

    def process_request(self, request: HTTPServerRequest) -> dict[str, Any]:
        return {"role": self._guard.role_of(request)}


class _GuardedPage(Handler, DocHandler):  # type: ignore[misc]
    """A page of Bokeh's whose scripts are known by a nonce, so that no other script runs in it."""

    application: BokehPages

    async def get(self, *args: Any, **kwargs: Any) -> None:
        """Make the page, unless too many are open."""
        async with self.application.door:
            if not await self.application.has_room():
                self.set_status(503)
                self.set_header("Content-Type", "text/plain; charset=utf-8")
                self.set_header("Retry-After", "30")
                self.finish(f"{MAX_SESSIONS} pages are open, which is the limit; close some and try again\n")
                return
            session = await self.get_session()
        document, nonce = session.document, secrets.token_urlsafe(16)
        page = server_html_page_for_session(
            session,
            resources=self.application.resources(root_of(self.request)).clone(components=SCRIPTS),
            title=document.title,
            template=document.template,
            template_variables=document.template_variables,
        )
        for name, value in script_page(nonce).items():
            self.set_header(name, value)
        # Whatever users named is escaped by then: these are the tags that Bokeh's template has.
        self.write(
            page.replace("<script ", f'<script nonce="{nonce}" ').replace("<script>", f'<script nonce="{nonce}">')
        )


class _Socket(Handler, WSHandler):  # type: ignore[misc]
    """A page's websocket, which can be cut."""

    application: BokehPages
    _is_given_up = False
    """Whether the page knows that its browser has gone."""

    def open(self) -> None:
        """Begin."""
        self.application.sockets.add(self)
        super().open()

    def on_close(self) -> None:
        """End."""
        self.application.sockets.discard(self)
        self._is_given_up = self.connection is not None
        super().on_close()

    async def _async_open(self, token: str) -> None:
        async with self.application.door:
            session_id = get_session_id(token)
            if session_id not in self.application.sessions:
                if not await self.application.has_room():
                    self.close()  # else Bokeh would make a page for it
                    return
                with suppress(ProtocolError):  # which is told below
                    await self.application_context.create_session_if_needed(session_id, self.request, token)
        await super()._async_open(token)
        # Bokeh forgets this case: a browser that went before its page was its own kept that page for ever.
        if self not in self.application.sockets and self.connection is not None and not self._is_given_up:
            super().on_close()

    def cut(self) -> None:
        """End at once: a browser that does not read would never come to a farewell behind what it has not read."""
        if self.ws_connection is not None and self.ws_connection.stream is not None:
            self.ws_connection.stream.close()
