"""The service's web server: the guard before everything, the API behind it, and the place where pages are mounted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
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

from anabranch.errors import ServiceError
from anabranch.service.guard import COOKIE, Guard, Refusal

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


class WebServer:
    """Serves routes on one address, each request past the guard first, websockets too.

    Parameters
    ----------
    routes
        Of the API, and of any pages: whoever adds pages adds them here, and the guard holds for them.
    guard
        Who may ask.
    """

    def __init__(self, routes: Sequence[Route], guard: Guard) -> None:
        login: Route = (r"/login", _Login, {"guard": guard})
        self.application = Application([*routes, login], default_handler_class=_NotFound)
        self._server = HTTPServer(
            _Guarded(self.application, guard), max_body_size=MAX_BODY, max_buffer_size=2 * MAX_BODY
        )
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
        self._server.add_sockets(sockets)
        self.port = sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Listen no more, and let go of connections."""
        self._server.stop()
        await self._server.close_all_connections()


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

    def headers_received(self, start_line: Any, headers: HTTPHeaders) -> Any:
        assert isinstance(start_line, RequestStartLine)
        request = HTTPServerRequest(
            connection=self._connection, server_connection=self._server_conn, start_line=start_line, headers=headers
        )
        self._refusal = self._guard.refusal(request)
        if self._refusal is not None:
            return None
        self._inner = self._application.start_request(self._server_conn, self._connection)
        return self._inner.headers_received(start_line, headers)

    def data_received(self, chunk: bytes) -> Any:
        return self._inner.data_received(chunk) if self._inner is not None else None

    def finish(self) -> None:
        if self._inner is not None:
            self._inner.finish()
        elif self._refusal is not None:
            body = json.dumps({"error": self._refusal.text}).encode()
            headers = HTTPHeaders({**HEADERS, "Content-Type": "application/json", "Content-Length": str(len(body))})
            if self._refusal.status == 401:
                headers["WWW-Authenticate"] = "Bearer"
            line = ResponseStartLine("HTTP/1.1", self._refusal.status, "Refused")
            self._connection.write_headers(line, headers, body)
            self._connection.finish()

    def on_connection_close(self) -> None:
        if self._inner is not None:
            self._inner.on_connection_close()


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
            import logging

            logging.getLogger("anabranch.service").error(
                "%s %s", self.request.method, self.request.path, exc_info=(kind, error, trace)
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


class _NotFound(JsonHandler):
    def prepare(self) -> None:
        self.reply({"error": "there is nothing here"}, status=404)


class _Login(JsonHandler):
    """Sets the cookie by which a browser is known: `/login?token=…` is what people open."""

    def initialize(self, guard: Guard) -> None:
        self._guard = guard

    def get(self) -> None:
        if not self._guard.needs_token:
            self.redirect("/")
            return
        if not self._guard.is_token(self.get_query_argument("token", "")):
            status = 429 if self._guard.is_exhausted() else 401
            self.reply({"error": "this is not the token"}, status=status)
            return
        is_tls = self.request.protocol == "https"
        token = self.get_query_argument("token")
        self.set_cookie(COOKIE, token, httponly=True, samesite="Strict", secure=is_tls, path="/")
        self.redirect("/")
