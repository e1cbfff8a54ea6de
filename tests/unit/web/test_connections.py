"""Connections are bounded, and neither their bound nor a lack of files keeps out who has a token."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from anabranch.web import connections
from anabranch.web.connections import MAX_CONNECTIONS, most_connections
from anabranch.web.guard import Guard
from anabranch.web.listening import open_sockets
from anabranch.web.server import Server
from anabranch.web.thread import ServerThread

TOKEN = "a-token-of-some-length"
KNOWN = f"HEAD /x HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
WRONG = KNOWN.replace(TOKEN.encode(), b"wrong")


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], socket.socket]]:
    """Connects to a server that takes two connections."""
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 2)
    server = Server(Guard(token=TOKEN))
    thread = ServerThread(server, open_sockets("127.0.0.1", 0), name="two")
    with contextlib.ExitStack() as opened:
        yield lambda: opened.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=20))
    thread.close()


def status(client: socket.socket, request: bytes = KNOWN) -> bytes:
    """The status of an answer; empty if the connection is closed."""
    try:
        client.sendall(request)
        return client.recv(4_000)[9:12]
    except ConnectionError:
        return b""


def test_half_open_connections_give_way_the_oldest_first(connect: Callable[[], socket.socket]):
    silent = [connect() for _ in range(5)]
    assert status(connect()) == b"404"
    assert [each.recv(1) for each in silent[:4]] == [b""] * 4
    assert status(silent[4]) == b"404"


@pytest.mark.parametrize(
    "stranger",
    [
        WRONG,
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3,
        b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\ntoken=",
        b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    ],
)
def test_who_has_shown_no_token_keeps_nobody_out_who_has_one(connect: Callable[[], socket.socket], stranger: bytes):
    for _ in range(5):
        connect().sendall(stranger)
    known = connect()
    assert status(known) == b"404"
    for _ in range(5):
        connect().sendall(stranger)
    assert status(known) == b"404"
    assert status(connect()) == b"404"


def test_where_all_have_shown_a_token_the_next_is_closed_until_there_is_room(connect: Callable[[], socket.socket]):
    known = [connect() for _ in range(2)]
    assert [status(each) for each in known] == [b"404"] * 2
    assert connect().recv(1) == b""
    known[0].close()
    assert any(status(connect()) for _ in range(1_000)), "once the server knows of it"


def test_no_more_than_half_of_the_files_are_taken():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        assert most_connections() == 128
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert 1 <= most_connections() <= MAX_CONNECTIONS


@contextlib.contextmanager
def no_more_files() -> Iterator[None]:
    """This process can open none but in the place of one that is closed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = 1 + max(int(each.name) for each in Path("/proc/self/fd").iterdir())
    filled = [os.open(os.devnull, os.O_RDONLY)]
    while filled[-1] < limit:
        filled.append(os.open(os.devnull, os.O_RDONLY))
    resource.setrlimit(resource.RLIMIT_NOFILE, (filled[-1] + 1, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for each in filled:
            os.close(each)


def test_running_out_of_files_is_told_once_and_the_server_goes_on(caplog: pytest.LogCaptureFixture):
    # given
    server = Server(Guard(token=TOKEN))
    thread = ServerThread(server, open_sockets("127.0.0.1", 0), name="short")
    with contextlib.ExitStack() as opened:
        stranger, *others = [opened.enter_context(socket.socket()) for _ in range(20)]
        for each in (stranger, *others):
            each.settimeout(20)
        stranger.connect(("127.0.0.1", server.port))
        assert status(stranger, WRONG) == b"401"
        # when
        with no_more_files():
            answers = []
            for each in others:
                each.connect(("127.0.0.1", server.port))
                answers.append(status(each))
        # then the stranger's file is the first one's, as may be those of other tests, and the rest are closed
        assert answers[0] == b"404"
        assert answers == sorted(answers, reverse=True)
        assert answers[-1] == b""
        assert stranger.recv(1) == b""
        told = [record.getMessage() for record in caplog.records if "closed" in record.getMessage()]
        assert told == ["connections are closed: " + os.strerror(errno.EMFILE)]
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
            assert status(client) == b"404"
    thread.close()
