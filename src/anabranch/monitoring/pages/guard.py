"""Who may see the pages: one gate in front of every route, static files and websockets included.

The address that is printed has a token in it; it is exchanged for a cookie. `Host` and `Origin` must be the server's
own, so that no other site can speak to it through a browser.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
import time
from collections import deque
from collections.abc import Callable, Collection
from functools import cache
from hashlib import sha256
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import urlencode, urlsplit

from bokeh.embed.server import server_html_page_for_session
from bokeh.server.tornado import BokehTornado
from bokeh.server.views.doc_handler import DocHandler
from bokeh.server.views.ws import WSHandler
from tornado.httputil import HTTPServerRequest
from tornado.web import RequestHandler

from anabranch.base.errors import ExtraMissing
from anabranch.monitoring.metrics import CONTENT_TYPE

TOKEN = "token"
MAX_SESSIONS = 64  # pages that are open at once: each keeps its own figures in this process
FAREWELLS = 1_000  # turns of the loop, of which two do
WRONG_A_MINUTE = 20  # guesses; a token of 256 bits needs no more protection, and a log no more lines

# Bokeh compiles nothing at run time as long as no page has JavaScript of its own; its styles are inline, though.
POLICY = (
    "default-src 'none'; script-src 'self' 'nonce-{nonce}'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self'; connect-src 'self'; "
    "base-uri 'none'; object-src 'none'; form-action 'none'; frame-ancestors 'none'"
)


SCRIPTS = ["bokeh", "bokeh-widgets"]  # all that pages use: tables, formulas and WebGL would be twice as much again


class Gate:
    """Tells requests of who has the token from all others.

    Parameters
    ----------
    hosts
        Values of ``Host`` that the server answers to.
    cookie
        Name of the cookie; one for each server of a machine, as browsers share cookies between ports.
    """

    def __init__(self, token: str, hosts: Collection[str], cookie: str) -> None:
        self._token = _digest(token)
        self._key = secrets.token_urlsafe(32)
        self._hosts = frozenset(host.lower() for host in hosts)
        self._cookie = cookie
        self._wrong: deque[float] = deque(maxlen=WRONG_A_MINUTE)

    def refusal(self, request: HTTPServerRequest) -> tuple[int, str] | None:
        """Status and reason, if a request must not get through."""
        if (request.headers.get("Host") or "").lower() not in self._hosts:
            return 403, "this server does not answer to that name"
        origin = request.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc.lower() not in self._hosts:
            return 403, "requests of other sites are refused"
        if self._has_cookie(request):
            return None
        given = self._bearer(request) or self.token_of(request)
        if given is None:
            return 401, "open the address that was printed, with its token"
        if self._is_hasty():
            return 429, "too many wrong tokens; try again in a minute"
        if not self.is_token(given):
            self._wrong.append(time.monotonic())
            return 401, "that is not the token of this server; it is in the address that was printed"
        return None

    def _bearer(self, request: HTTPServerRequest) -> str | None:
        """The token in a header, as Prometheus and scripts send it."""
        kind, _, token = (request.headers.get("Authorization") or "").partition(" ")
        return token.strip() if kind.lower() == "bearer" else None

    def token_of(self, request: HTTPServerRequest) -> str | None:
        """The token in a request's address."""
        values = request.query_arguments.get(TOKEN)
        return values[0].decode("latin-1") if values else None

    def is_token(self, token: str | None) -> bool:
        """Whether that is the token; takes as long whatever it is."""
        return token is not None and hmac.compare_digest(_digest(token), self._token)

    def set_cookie(self, handler: RequestHandler) -> None:
        """Let a browser that had the token come again."""
        handler.set_cookie(self._cookie, self._key, httponly=True, samesite="Strict", path="/")

    def _has_cookie(self, request: HTTPServerRequest) -> bool:
        try:
            morsel = SimpleCookie(request.headers.get("Cookie", "")).get(self._cookie)
        except CookieError:
            return False
        return morsel is not None and hmac.compare_digest(_digest(morsel.value), _digest(self._key))

    def _is_hasty(self) -> bool:
        return len(self._wrong) == WRONG_A_MINUTE and time.monotonic() - self._wrong[0] < 60


def _digest(text: str) -> bytes:
    return sha256(text.encode("utf-8", "surrogatepass")).digest()


class PagesTornado(BokehTornado):  # type: ignore[misc]  # Bokeh's annotations are left out
    """Bokeh's web application, with a bound on pages and with an end that waits for no browser."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.sockets: set[_Socket] = set()
        super().__init__(*arguments, **options)

    @property
    def sessions(self) -> int:
        """Pages that browsers have open, or had a moment ago."""
        return sum(len(self.get_sessions(path)) for path in self.app_paths)

    async def end(self) -> None:
        """Let go of all browsers, and stop; in the thread of its loop."""
        for each in list(self.sockets):
            each.cut()
        for _ in range(FAREWELLS):  # what waited to be sent is told that it cannot be
            if self.sockets:
                await asyncio.sleep(0)
        self.stop(wait=False)  # from 3.10 on, Bokeh refuses to wait in the thread of its own loop


class GuardedTornado(PagesTornado):
    """Bokeh's web application behind a gate."""

    def __init__(self, applications: Any, gate: Gate, **options: Any) -> None:
        self._gate = gate
        super().__init__(applications, **options)

    def find_handler(self, request: HTTPServerRequest, **kwargs: Any) -> Any:
        """The handler of a request: every route goes through here, whoever added it."""
        refused = self._gate.refusal(request)
        if refused is not None:
            status, reason = refused
            return self.get_handler_delegate(request, Refused, {"status": status, "reason": reason})
        if self._gate.token_of(request) is not None and request.method == "GET":
            return self.get_handler_delegate(request, LoggedIn, {"gate": self._gate})
        delegate = super().find_handler(request, **kwargs)
        delegate.handler_class = hardened(delegate.handler_class)
        return delegate


class _Headers(RequestHandler):
    """Headers that every answer has."""

    def set_default_headers(self) -> None:
        """Allow nothing that a page of ours does not need."""
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Referrer-Policy", "no-referrer")
        self.set_header("X-Frame-Options", "DENY")
        self.set_header("Cross-Origin-Resource-Policy", "same-origin")
        self.clear_header("Server")


class Refused(_Headers):
    """Says why a request does not get through, and nothing else."""

    def initialize(self, status: int, reason: str) -> None:
        """Keep what to say."""
        self._answer = status, reason

    def prepare(self) -> None:
        """Answer, whatever the method."""
        status, reason = self._answer
        self.set_status(status)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(f"{reason}\n")


class LoggedIn(_Headers):
    """Exchanges the token for a cookie, so that it does not stay in the address."""

    def initialize(self, gate: Gate) -> None:
        """Keep the gate."""
        self._gate = gate

    def prepare(self) -> None:
        """Send the browser to the same page without the token."""
        self._gate.set_cookie(self)
        rest = [
            (name, each.decode("utf-8", "replace"))
            for name, values in self.request.query_arguments.items()
            if name != TOKEN
            for each in values
        ]
        path = "/" + self.request.path.lstrip("/\\")  # never another server's: "//host" would be one
        self.redirect(path + (f"?{urlencode(rest)}" if rest else ""))


class MetricsPage(RequestHandler):
    """Metrics in Prometheus's text format."""

    def initialize(self, text: Callable[[], str]) -> None:
        """Keep what gives the text."""
        self._text = text

    def get(self) -> None:
        """Answer a scrape."""
        try:
            text = self._text()
        except ExtraMissing as error:  # nothing that writes them is installed
            self.set_status(501)
            text = f"# {error}\n"
        self.set_header("Content-Type", CONTENT_TYPE)
        self.write(text)


class _Page(_Headers, DocHandler):  # type: ignore[misc]
    """A page of Bokeh's whose scripts are known by a nonce, so that no other script runs in it."""

    async def get(self, *args: Any, **kwargs: Any) -> None:
        """Make the page, unless too many are open."""
        application: Any = self.application  # ours: tornado knows only its own class
        if application.sessions >= MAX_SESSIONS:
            self.set_status(503)
            self.set_header("Content-Type", "text/plain; charset=utf-8")
            self.set_header("Retry-After", "30")  # by then, pages whose browsers are gone have been discarded
            self.finish(f"{MAX_SESSIONS} pages are open at once, and no more are served; close some and try again\n")
            return
        session = await self.get_session()
        document, nonce = session.document, secrets.token_urlsafe(16)
        page = server_html_page_for_session(
            session,
            resources=application.resources().clone(components=SCRIPTS),
            title=document.title,
            template=document.template,
            template_variables=document.template_variables,
        )
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.set_header("Cache-Control", "no-store")
        self.set_header("Content-Security-Policy", POLICY.format(nonce=nonce))
        # Whatever users named is escaped by then: these are the tags that Bokeh's template has.
        self.write(
            page.replace("<script ", f'<script nonce="{nonce}" ').replace("<script>", f'<script nonce="{nonce}">')
        )


class _Socket(_Headers, WSHandler):  # type: ignore[misc]
    """A page's websocket, which can be cut."""

    _is_given_up = False
    """Whether the page knows that its browser has gone."""

    @property
    def _open_ones(self) -> set[_Socket]:
        application: Any = self.application  # ours: tornado knows only its own class
        found: set[_Socket] = application.sockets
        return found

    def open(self) -> None:
        """Begin."""
        self._open_ones.add(self)
        super().open()

    def on_close(self) -> None:
        """End."""
        self._open_ones.discard(self)
        self._is_given_up = self.connection is not None
        super().on_close()

    async def _async_open(self, token: str) -> None:
        await super()._async_open(token)
        # Bokeh forgets this case: a browser that went before its page was its own kept that page for ever.
        if self not in self._open_ones and self.connection is not None and not self._is_given_up:
            super().on_close()

    def cut(self) -> None:
        """End at once: a browser that does not read would never come to a farewell behind what it has not read."""
        if self.ws_connection is not None and self.ws_connection.stream is not None:
            self.ws_connection.stream.close()


@cache
def hardened(cls: type[RequestHandler]) -> type[RequestHandler]:
    """A handler of Bokeh's whose answers let browsers do nothing that a page of ours does not need."""
    if issubclass(cls, DocHandler):
        return _Page
    if issubclass(cls, WSHandler):
        return _Socket
    return type(cls.__name__, (_Headers, cls), {})
