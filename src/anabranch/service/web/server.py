"""The service's web server: the guard before everything, the API behind it, and the place where pages are mounted."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.httputil import (
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    HTTPServerRequest,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

from anabranch.base.errors import ServiceError
from anabranch.base.texts import printable
from anabranch.service.web import frame
from anabranch.service.web.frame import login_form, sentence
from anabranch.service.web.guard import FORMS, Guard, Refusal

MAX_BODY = 8 << 20
"""Bytes of a request: parameters are small; what is large belongs into a file."""
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; object-src 'none'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Server": "anabranch",
}
Route = tuple[str, type[RequestHandler], dict[str, Any]]
"""Pattern of a path, its handler, and what the handler's ``initialize`` takes. Pages are mounted as such."""
Mount = Callable[[list[Route], type[RequestHandler]], tuple[Application, Callable[[], Awaitable[object]]]]
"""Makes an application of routes, a handler of all other paths, and what it adds itself; gives what stops it, too."""

_log = logging.getLogger("anabranch.service")


def _plain(routes: list[Route], other: type[RequestHandler]) -> tuple[Application, Callable[[], Awaitable[object]]]:
    return Application(list(routes), default_handler_class=other, log_function=log_request), _nothing_to_end


async def _nothing_to_end() -> None: ...


def log_request(handler: RequestHandler) -> None:
    """As Tornado logs a request, without its query, in which a token may be."""
    status, request = handler.get_status(), handler.request
    if status >= 500:
        _log.error("%s %s: %d", request.method, printable(request.path), status)
    else:
        _log.debug("%s %s: %d", request.method, printable(request.path), status)


class WebServer:
    """Serves routes on one address, each request past the guard first, websockets too.

    Parameters
    ----------
    routes
        Of the API, and of any pages: whoever adds pages adds them here, and the guard holds for them.
    guard
        Who may ask.
    mount
        Makes the application; called when the server begins to listen, in the thread of its loop.
    tls
        Serve HTTPS with this certificate.
    """

    def __init__(
        self, routes: Sequence[Route], guard: Guard, *, mount: Mount = _plain, tls: ssl.SSLContext | None = None
    ) -> None:
        self._guard = guard
        self._routes = list(routes)
        self._mount = mount
        self._tls = tls
        self._server: HTTPServer | None = None
        self._end: Callable[[], Awaitable[object]] = _nothing_to_end
        self.port = 0

    def listen(self, address: str, port: int) -> None:
        """Listen; port 0 takes a free one, which is `port` then.

        Raises
        ------
        ServiceError
            The address or port cannot be had.
        """
        try:
            sockets = bind_sockets(port, address)
        except (OSError, OverflowError, UnicodeError) as error:
            raise ServiceError(
                f"cannot listen on {address}:{port}: {error}; --port takes another, 0 a free one"
            ) from error
        self.port = sockets[0].getsockname()[1]
        self.application, self._end = self._mount(self._routes, NotFound)
        guarded = _Guarded(self.application, self._guard)
        self._server = HTTPServer(guarded, max_body_size=MAX_BODY, max_buffer_size=2 * MAX_BODY, ssl_options=self._tls)
        self._server.add_sockets(sockets)

    async def close(self) -> None:
        """Listen no more, and let go of connections."""
        if self._server is not None:
            self._server.stop()
            await self._end()
            await self._server.close_all_connections()


def tls_context(cert: str, key: str) -> ssl.SSLContext | None:
    """What serves HTTPS; None where there is no certificate.

    Parameters
    ----------
    cert, key
        Files in PEM form: the certificate with those that vouch for it, and its key; without a file of its own the key
        is in that of the certificate.

    Raises
    ------
    ServiceError
        They cannot be read, or do not belong together.
    """
    if not cert:
        if key:
            raise ServiceError("there is a key for TLS and no certificate; give --tls-cert, too")
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(cert, key or None, password=_no_password)
    except (OSError, ValueError) as error:
        raise ServiceError(f"TLS with the certificate {cert} and the key {key or cert}: {error}") from error
    return context


def _no_password() -> str:
    """Asked for where a key is encrypted; without this OpenSSL would ask at the terminal, and wait."""
    raise ValueError("the key is encrypted; a service can ask nobody for its password")


class _Guarded(HTTPServerConnectionDelegate):
    """The application behind the guard: requests that it refuses never reach a handler."""

    def __init__(self, application: Application, guard: Guard) -> None:
        self._application = application
        self._guard = guard

    def start_request(self, server_conn: object, request_conn: Any) -> HTTPMessageDelegate:
        return _GuardedRequest(self._application, self._guard, server_conn, request_conn)

    def on_close(self, server_conn: object) -> None:
        self._application.on_close(server_conn)


class _GuardedRequest(HTTPMessageDelegate):
    def __init__(self, application: Application, guard: Guard, server_conn: object, connection: Any) -> None:
        self._application = application
        self._guard = guard
        self._server_conn = server_conn
        self._connection = connection
        self._inner: HTTPMessageDelegate | None = None
        self._refusal: Refusal | None = None
        self._request: HTTPServerRequest | None = None

    def headers_received(self, start_line: Any, headers: HTTPHeaders) -> Any:
        assert isinstance(start_line, RequestStartLine)
        request = HTTPServerRequest(
            connection=self._connection, server_connection=self._server_conn, start_line=start_line, headers=headers
        )
        self._refusal = self._guard.refusal(request)
        if self._refusal is not None:
            self._request = request
            return None
        self._inner = self._application.start_request(self._server_conn, self._connection)
        return self._inner.headers_received(start_line, headers)

    def data_received(self, chunk: bytes) -> Any:
        return self._inner.data_received(chunk) if self._inner is not None else None

    def finish(self) -> None:
        if self._inner is not None:
            self._inner.finish()
        elif self._refusal is not None:
            assert self._request is not None
            body, kind = _refused(self._request, self._refusal)
            headers = HTTPHeaders({**HEADERS, **kind, "Content-Length": str(len(body))})
            if self._refusal.status == 401:
                headers["WWW-Authenticate"] = "Bearer"
            line = ResponseStartLine("HTTP/1.1", self._refusal.status, "Refused")
            self._connection.write_headers(line, headers, body)
            self._connection.finish()

    def on_connection_close(self) -> None:
        if self._inner is not None:
            self._inner.on_connection_close()


def _refused(request: HTTPServerRequest, refusal: Refusal) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a refusal: a page for people who look at one, JSON for all others."""
    if "text/html" not in request.headers.get("Accept", "") or request.method == "HEAD":
        body = b"" if request.method == "HEAD" else json.dumps({"error": refusal.text}).encode()
        return body, {"Content-Type": "application/json"}
    text = login_form(request.uri or "/") if refusal.status == 401 else sentence(refusal.text)
    return text.encode(), frame.HEADERS


class JsonHandler(RequestHandler):
    """A handler that answers in JSON, errors too, and does its work in a thread."""

    def set_default_headers(self) -> None:
        """Headers that keep a browser from doing more with an answer than showing it."""
        for name, value in HEADERS.items():
            self.set_header(name, value)
        self.set_header("Content-Type", "application/json")

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """An error that no handler has foreseen; what it was is in the log."""
        self.finish(json.dumps({"error": self._reason}))

    def log_exception(self, *exc_info: Any) -> None:
        """As Tornado does, without the request's headers, in which the token is."""
        kind, error, trace = exc_info
        if status_of(error) is None:
            _log.error("%s %s", self.request.method, self.request.path, exc_info=(kind, error, trace))

    def on_finish(self) -> None:
        """Leave a trace of what was changed, and from where."""
        if self.request.method not in ("GET", "HEAD", "OPTIONS") and self.get_status() < 400:
            what = self.request.uri if self.request.path.startswith(FORMS) else self.request.path  # never a token
            _log.info(
                "%s %s from %s: %d", self.request.method, printable(what), self.request.remote_ip, self.get_status()
            )

    async def answer(self, work: Callable[[], Any], *, status: int = 200) -> None:
        """Do something in a thread, and send what it gives."""
        found = await asyncio.get_running_loop().run_in_executor(None, work)
        self.reply(found, status=status)

    def reply(self, value: Any, *, status: int = 200) -> None:
        """Send a value; what JSON does not have is a text."""
        self.set_status(status)
        self.finish(json.dumps(value, default=str).replace("<", "\\u003c"))


def status_of(error: object) -> int | None:
    """The status that an exception of Tornado's stands for."""
    found = getattr(error, "status_code", None)
    return found if isinstance(found, int) else None


class NotFound(JsonHandler):
    """Answers for all paths that nobody else answers for."""

    def prepare(self) -> None:
        """Say so, whatever the method."""
        self.reply({"error": "there is nothing here"}, status=404)


class PageHandler(JsonHandler):
    """A handler that answers in plain pages."""

    def page(self, text: str, *, status: int = 200) -> None:
        """Send a page."""
        self.set_status(status)
        for name, value in frame.HEADERS.items():
            self.set_header(name, value)
        self.finish(text)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """An error that no handler has foreseen; what it was is in the log."""
        self.page(sentence(self._reason), status=status_code)

    def to(self, place: str) -> None:
        """Send the browser elsewhere, to look."""
        self.redirect(place, status=303)
