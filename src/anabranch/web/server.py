"""The one HTTP server: the guard before everything, bounds on what a client may take, and the routes behind it."""

from __future__ import annotations

import json
import logging
import socket
import ssl
from collections.abc import Callable, Sequence
from functools import cache
from http.client import responses
from typing import Any, TypeAlias

from tornado.httputil import (
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    HTTPServerRequest,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.web import Application, RequestHandler

from anabranch.web import plain
from anabranch.web.connections import BoundedServer
from anabranch.web.few import Few
from anabranch.web.guard import (
    HEALTH,
    LOGIN,
    MAX_LOGIN_NBYTES,
    NO_TOKEN,
    READY,
    TOO_LARGE,
    Guard,
    Refusal,
    Welcome,
    place_of,
    root_of,
    way_to,
)
from anabranch.web.handlers import Handler, NotFound, Route, log_answer
from anabranch.web.headers import HEADERS, JSON
from anabranch.web.login import login_routes

MAX_BODY_NBYTES = 8 << 20
"""Of a request: parameters are small; what is large belongs into a file."""
IDLE_S = 75.0  # a browser's connection may rest so long, and the head of a request may take so long
BODY_S = 60.0


class Served(Application):
    """What a server serves: no answer is without our headers, and none is logged with its query."""

    def find_handler(self, request: HTTPServerRequest, **kwargs: Any) -> Any:
        """The handler of a request: every route goes through here, whoever added it."""
        delegate = super().find_handler(request, **kwargs)
        delegate.handler_class = self.handler_of(delegate.handler_class)
        return delegate

    def handler_of(self, cls: type[RequestHandler]) -> type[RequestHandler]:
        """A handler with our headers, in place of one of others."""
        return cls if issubclass(cls, Handler) else _with_headers(cls)  # type: ignore[arg-type]  # a class has a hash

    def log_request(self, handler: RequestHandler) -> None:
        """Note an answer."""
        request = handler.request
        subject = getattr(handler, "subject", "")
        log_answer(request.method, request.path, request.remote_ip, handler.get_status(), subject=subject)

    async def end(self) -> None:
        """Let go of all browsers."""


@cache
def _with_headers(cls: type[RequestHandler]) -> type[RequestHandler]:
    return type(cls.__name__, (Handler, cls), {})


Make: TypeAlias = Callable[[list[Route]], Served]
"""Makes what is served of routes, in the thread of the server's loop."""


def only_routes(routes: list[Route]) -> Served:
    """What has routes, and nothing else."""
    return Served(list(routes), default_handler_class=NotFound)


class Server:
    """Serves routes, each request past the guard first, websockets too.

    Parameters
    ----------
    guard
        Who may ask.
    routes
        What there is to ask for, beside the login.
    make
        What is served, with these routes in it.
    tls
        Serve HTTPS with this certificate.
    """

    def __init__(
        self, guard: Guard, routes: Sequence[Route] = (), *, make: Make = only_routes, tls: ssl.SSLContext | None = None
    ) -> None:
        self._guard = guard
        self._routes = [*routes, *login_routes(guard)]
        self._make = make
        self._tls = tls
        self._few = Few()
        self.port = 0

    def start(self, sockets: Sequence[socket.socket]) -> None:
        """Serve at sockets that listen, in the loop of this thread."""
        self.port = sockets[0].getsockname()[1]
        self.application = self._make(self._routes)
        if self._tls is not None:
            logging.getLogger("tornado.general").addFilter(self._few)  # it tells of each client that speaks no TLS
        guarded = _Guarded(self.application, self._guard, "http" if self._tls is None else "https")
        self._server = guarded.server = BoundedServer(
            guarded,
            ssl_options=self._tls,
            idle_connection_timeout=IDLE_S,
            body_timeout=BODY_S,
            max_body_size=MAX_BODY_NBYTES,
            max_buffer_size=2 * MAX_BODY_NBYTES,
        )
        self._server.add_sockets(sockets)

    async def close(self) -> None:
        """Listen no more, and let go of connections."""
        self._server.stop()
        await self.application.end()
        await self._server.close_all_connections()
        logging.getLogger("tornado.general").removeFilter(self._few)


class _Guarded(HTTPServerConnectionDelegate):
    """What is served behind the guard: requests that it answers never reach a handler, and their bodies are dropped."""

    server: BoundedServer

    def __init__(self, application: Application, guard: Guard, protocol: str) -> None:
        self.application = application
        self.guard = guard
        self.protocol = protocol

    def start_request(self, server_conn: object, request_conn: Any) -> HTTPMessageDelegate:
        return _GuardedRequest(self, server_conn, request_conn)


class _GuardedRequest(HTTPMessageDelegate):
    def __init__(self, front: _Guarded, server_conn: object, connection: Any) -> None:
        self._front = front
        self._guard = front.guard
        self._server_conn = server_conn
        self._connection = connection
        self._inner: HTTPMessageDelegate | None = None
        self._answer: Refusal | Welcome | None = None
        self._request: HTTPServerRequest | None = None

    def headers_received(self, start_line: Any, headers: HTTPHeaders) -> Any:
        assert isinstance(start_line, RequestStartLine)
        context = self._connection.context  # of the connection; a proxy has many clients on one
        context.remote_ip, context.protocol = self._guard.proxies.client(
            context.address[0], self._front.protocol, headers
        )
        self._request = request = HTTPServerRequest(
            connection=self._connection, server_connection=self._server_conn, start_line=start_line, headers=headers
        )
        self._answer = self._guard.answer(request)
        if isinstance(self._answer, Welcome) or (self._answer is None and request.path not in (HEALTH, READY, LOGIN)):
            self._front.server.note_known(self._connection.stream)
        if self._answer is None and request.path == LOGIN:
            told = headers.get("Content-Length", "")
            if told.isdecimal() and (len(told) > 9 or int(told) > MAX_LOGIN_NBYTES):
                self._answer = TOO_LARGE
            else:
                self._connection.set_max_body_size(MAX_LOGIN_NBYTES)  # of what comes in pieces
        if self._answer is not None:
            return None
        self._inner = self._front.application.start_request(self._server_conn, self._connection)
        return self._inner.headers_received(start_line, headers)

    def data_received(self, chunk: bytes) -> Any:
        return self._inner.data_received(chunk) if self._inner is not None else None

    def finish(self) -> None:
        if self._inner is not None:
            self._inner.finish()
        elif self._request is not None and self._answer is not None:
            request = self._request
            status, more, body = self._shown(request, self._answer)
            headers = HTTPHeaders({**HEADERS, **more, "Content-Length": str(len(body))})
            line = ResponseStartLine("HTTP/1.1", status, responses[status])
            self._connection.write_headers(line, headers, b"" if request.method == "HEAD" else body)
            self._connection.finish()
            log_answer(request.method, request.path, request.remote_ip, status)

    def on_connection_close(self) -> None:
        if self._inner is not None:
            self._inner.on_connection_close()

    def _shown(self, request: HTTPServerRequest, answer: Refusal | Welcome) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body: a page for people who look at one, JSON for all others."""
        if isinstance(answer, Welcome):
            headers = {"Location": way_to(answer.place, request)}
            if answer.role:
                headers["Set-Cookie"] = self._guard.sessions.begin(answer.role, is_tls=request.protocol == "https")
            return 303, headers, b""
        headers = {"WWW-Authenticate": "Bearer"} if answer.status == 401 else {}
        if "text/html" not in request.headers.get("Accept", ""):
            return answer.status, {**headers, "Content-Type": JSON}, json.dumps({"error": answer.text}).encode()
        if answer.status in (401, 429):
            text = plain.login_form(root_of(request), place_of(request), "" if answer == NO_TOKEN else answer.text)
        else:
            text = plain.build_notice(answer.text, root_of(request))
        return answer.status, {**headers, **plain.HEADERS}, text.encode()
