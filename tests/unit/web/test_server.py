"""The server: what every answer has, what is in no log, and how much a client may take."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.web_server import Server, make_certificate, serving

from anabranch.errors import ExtraMissing
from anabranch.monitoring.metrics import MetricsServer
from anabranch.monitoring.pages.library import Library
from anabranch.monitoring.pages.server import Pages
from anabranch.web import few
from anabranch.web import server as web_server
from anabranch.web.guard import Guard
from anabranch.web.handlers import TextHandler
from anabranch.web.headers import HEADERS
from anabranch.web.listening import open_sockets, tls_context
from anabranch.web.server import MAX_BODY_NBYTES, only_routes
from anabranch.web.server import Server as WebServer
from anabranch.web.thread import ServerThread

TOKEN = "a-token-of-some-length"
OWN = ("Content-Security-Policy", "Cache-Control", "Referrer-Policy")
"""What pages and files may have otherwise."""


@pytest.fixture(scope="module")
def service() -> Iterator[Server]:
    with serving(TOKEN) as found:
        yield found


@pytest.fixture(scope="module")
def pages() -> Iterator[Pages]:
    with Pages(Library(lambda: None)) as found:
        yield found


def ask(
    port: int, path: str, method: str = "GET", body: bytes | None = None, **headers: str
) -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read().decode("utf-8", "replace")
    finally:
        connection.close()


def token_of(pages: Pages) -> str:
    return urlsplit(pages.address()).query.partition("token=")[2]


# Headers --------------------------------------------------------------------------------------------------------------

PATHS = ["/", "/run?id=x", "/nothing", "/login", "/logout", "/metrics", "/static/js/bokeh.min.js", "/static/no", "/ws"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS"])
@pytest.mark.parametrize("kind", ["text/html", "*/*"])
def test_every_answer_of_every_front_has_the_headers(service: Server, pages: Pages, method: str, kind: str):
    with MetricsServer(Text()) as metrics:
        fronts = [(service.web.port, TOKEN), (pages.port, token_of(pages)), (metrics.port, "")]
        for port, token in fronts:
            for known in ({"Authorization": f"Bearer {token}"}, {}, {"Origin": "http://evil.example"}):
                for path in [*PATHS, f"/?token={token}", "/?token=wrong"]:
                    _, headers, _ = ask(port, path, method, Accept=kind, **known)
                    for name, value in HEADERS.items():
                        assert name in headers, path
                        assert name in OWN or headers[name] == value, (path, name)
                    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]


class Text:
    def text(self) -> str:
        return "# nothing\n"


# The log --------------------------------------------------------------------------------------------------------------


def test_neither_queries_nor_tokens_are_logged(service: Server, pages: Pages, caplog: pytest.LogCaptureFixture):
    # given
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "anabranch.web")
    form = {"Content_Type": "application/x-www-form-urlencoded"}
    # when
    for port, token in ((service.web.port, TOKEN), (pages.port, token_of(pages))):
        for path in ("/", "/run", "/nothing", "/login"):
            ask(port, f"{path}?token={token}")
            ask(port, f"{path}?token=guessed-wrong")
            ask(port, f"{path}?id=asked-for", Authorization=f"Bearer {token}")
        ask(port, "/login", "POST", f"token={token}".encode(), **form)
        ask(port, "/static/no?token=guessed-wrong", "POST", b"{}", Authorization=f"Bearer {token}")
    # then
    logged = [record.getMessage() for record in caplog.records if record.name != "bokeh.server.tornado"]
    for text in (TOKEN, token_of(pages), "guessed-wrong", "asked-for", "token=", "Bearer"):
        assert not [line for line in logged if text in line]
    assert "POST /login from 127.0.0.1: 303" in logged
    assert "GET /nothing from 127.0.0.1: 404" in logged
    assert "a wrong token from 127.0.0.1" in logged


# Bounds ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small() -> Iterator[Callable[..., WebServer]]:
    threads: list[ServerThread] = []

    def start(guard: Guard, **options: Any) -> WebServer:
        found = WebServer(guard, **options)
        threads.append(ServerThread(found, open_sockets("127.0.0.1", 0), name="small"))
        return found

    yield start
    for each in threads:
        each.close()


def test_a_connection_that_says_nothing_is_closed(small: Callable[..., WebServer], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(web_server, "IDLE_S", 0.05)
    port = small(Guard()).port
    for said in (b"", b"GET / HTTP/1.1\r\nHost: loc"):
        with socket.create_connection(("127.0.0.1", port), timeout=20) as idle:
            idle.sendall(said)
            assert idle.recv(1) == b""


def test_a_body_that_does_not_come_is_not_waited_for(small: Callable[..., WebServer], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(web_server, "BODY_S", 0.05)
    port = small(Guard(token=TOKEN)).port
    with socket.create_connection(("127.0.0.1", port), timeout=20) as slow:
        slow.sendall(b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\ntoken=")
        assert slow.recv(1) == b""


def test_bodies_are_bounded_and_the_login_takes_a_small_one(service: Server):
    form = {"Content_Type": "application/x-www-form-urlencoded"}
    # what is too large is read and dropped: a server that closes while a client sends takes its answer back
    status, _, text = service.call("POST", "/login", f"token={TOKEN}&next=/{'x' * 1_000_000}".encode(), **form)
    assert (status, json.loads(text)) == (413, {"error": "the form of the login has at most 8 KiB"})
    with socket.create_connection(("127.0.0.1", service.web.port), timeout=20) as client:
        client.sendall(b"POST /login HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2001\r\n")
        assert client.recv(12) == b"HTTP/1.1 400"
    known = {"Content_Type": "application/json", "Authorization": f"Bearer {TOKEN}"}
    with socket.create_connection(("127.0.0.1", service.web.port), timeout=20) as client:
        head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in known.items())
        client.sendall(
            f"POST /api/runs/x/cancel HTTP/1.1\r\nHost: localhost\r\n{head}"
            f"Content-Length: {MAX_BODY_NBYTES + 1}\r\n\r\n".encode()
        )
        assert client.recv(12) == b"HTTP/1.1 400"


# Strangers ------------------------------------------------------------------------------------------------------------

HOSTILE = st.text(st.characters(codec="latin-1", exclude_characters="\r\n"), max_size=60).map(
    lambda text: text.encode("latin-1")
)
NUMBERS = st.sampled_from(
    [b"9" * 5_000, b"-1", b"+1", b"1_0", b"0x10", "\u00b2".encode("latin-1"), b"8193", b"1, 1", b"1, 2", b""]
)


@given(
    method=st.sampled_from([b"GET", b"POST", b"HEAD", b"OPTIONS", b"CONNECT", b"PRI"]) | HOSTILE,
    path=st.sampled_from(
        [b"/", b"/login", b"/run?id=%ff", b"/do/cancel?run=x", b"*", b"http://localhost/", b"//x", b"/ws"]
    )
    | HOSTILE,
    headers=st.dictionaries(
        st.sampled_from(
            [b"Cookie", b"Authorization", b"Origin", b"X-Forwarded-For", b"Content-Type", b"Upgrade", b"Expect"]
        )
        | HOSTILE,
        HOSTILE | NUMBERS,
        max_size=4,
    ),
    length=st.none() | NUMBERS | HOSTILE,
    host=st.sampled_from([b"localhost", b"localhost:x", b"[", b"[::1", b"127.0.0.1:99999999999", b"evil.example"])
    | HOSTILE,
)
def test_whatever_a_stranger_says_is_refused_without_an_error(
    service: Server, method: bytes, path: bytes, headers: dict[bytes, bytes], length: bytes | None, host: bytes
):
    # given
    told = Told()
    loggers = [logging.getLogger(name) for name in ("anabranch", "tornado", "asyncio", "bokeh")]
    lines = [b"%s: %s" % each for each in headers.items()]
    lines += [b"Content-Length: " + length] if length is not None else []
    said = b"\r\n".join([b"%s %s HTTP/1.1" % (method, path), b"Host: " + host, *lines, b"Connection: close", b"", b""])
    for each in loggers:
        each.addHandler(told)
    # when
    try:
        with socket.create_connection(("127.0.0.1", service.web.port), timeout=20) as client:
            client.sendall(said)
            client.shutdown(socket.SHUT_WR)
            answer = client.recv(4_000)
    except ConnectionResetError:
        answer = b""
    finally:
        for each in loggers:
            each.removeHandler(told)
    # then
    assert answer[9:12] in (b"", b"200", b"303", b"400", b"401", b"403", b"405", b"413")
    assert answer[9:12] != b"200" or path in (b"/login", b"/healthz")
    assert [line for line in told.lines if "a wrong token" not in line] == []


class Told(logging.Handler):
    """What is logged as a warning or worse."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # ssl leaves one that was reset open
def test_who_speaks_no_tls_is_told_of_in_few_lines(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    # given
    certificate = make_certificate(tmp_path)
    caplog.set_level(logging.WARNING, "tornado")
    caplog.set_level(logging.WARNING, "tornado.general")
    with serving(TOKEN, tls=tls_context(*certificate)) as server:
        # when
        for number in range(3 * few.MOST):
            with socket.create_connection(("127.0.0.1", server.web.port), timeout=20) as client:
                if number % 2:  # it goes by a reset
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    continue
                client.sendall(b"GET / HTTP/1.1\r\n\r\n")
                with contextlib.suppress(ConnectionResetError):
                    client.recv(1)
    # then
    told = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert {(record.name, record.levelname) for record in told} == {("tornado.general", "WARNING")}
    assert len(told) <= few.MOST


# What goes wrong ------------------------------------------------------------------------------------------------------


def test_a_server_that_does_not_start_says_why():
    def fail(routes: object) -> Any:
        raise ZeroDivisionError("of what it serves")

    sockets = open_sockets("127.0.0.1", 0)
    with pytest.raises(OSError, match="ZeroDivisionError: of what it serves"):
        ServerThread(WebServer(Guard(), make=fail), sockets, name="fails")
    assert [each.fileno() for each in sockets] == [-1]


def test_a_turn_that_fails_ends_the_server_and_is_told(caplog: pytest.LogCaptureFixture):
    # given
    def fail() -> None:
        raise ZeroDivisionError("of the turn")

    # when
    thread = ServerThread(WebServer(Guard()), open_sockets("127.0.0.1", 0), name="turns", turn=fail, every_s=0.001)
    thread._thread.join(20)
    # then
    assert not thread.is_open
    assert "turns has stopped" in caplog.text
    thread.close()


def test_a_text_that_cannot_be_made_is_an_answer(small: Callable[..., WebServer]):
    def fail() -> str:
        raise ExtraMissing("needs a package")

    routes = [("/text", TextHandler, {"text": fail, "kind": "text/plain"})]
    port = small(Guard(), routes=routes, make=only_routes).port
    status, _, text = ask(port, "/text")
    assert (status, text) == (501, "# needs a package\n")
