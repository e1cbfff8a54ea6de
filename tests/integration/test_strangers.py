"""What strangers do to a service that may open 256 files, who has the token does not notice."""

from __future__ import annotations

import contextlib
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.service_process import ServiceProcess, serving

TOKEN = "the-operators-own-token"
FILES = 256
MAX_GROWTH = 64 << 20
"""Bytes: a tenth of what strangers send."""
FLOW = """
from anabranch import Flow, task

@task
def one():
    return 1

with Flow("quick") as flow:
    one()
"""


@pytest.fixture
def service(tmp_path: Path) -> Iterator[ServiceProcess]:
    (tmp_path / "quick.py").write_text(FLOW)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # the strangers have many
    try:
        with serving(tmp_path, "quick.py", token=TOKEN, files=FILES) as found:
            yield found
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Strangers:
    """Many connections to a port, which stay open."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Strangers:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._open.close()

    def say(self, *said: bytes, answers: bool = False) -> bytes:
        """What a new connection gets for what it says: its first bytes, or nothing."""
        client = self._open.enter_context(socket.create_connection(("127.0.0.1", self.port), timeout=20))
        try:
            for each in said:
                client.sendall(each)
            return client.recv(4_000) if answers else b""
        except ConnectionError:  # it was closed while it spoke, or before
            return b""


def head(method: str, path: str, **headers: str) -> bytes:
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in {"Host": "localhost", **headers}.items()]
    return "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""]).encode()


def nbytes(service: ServiceProcess) -> int:
    """Memory of a service's process, without what it shares with files."""
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    return 1024 * int(status.partition("RssAnon:")[2].split()[0])


def test_nobody_without_the_token_stops_a_service(service: ServiceProcess):
    def check() -> None:
        assert service.call("GET", "/healthz", headers={"Authorization": ""}) == (200, {"status": "ok"})
        assert service.call("GET", "/api/flows")[0] == 200
        service.wait_for(service.start("quick"), "Success")

    with Strangers(service.port) as strangers:
        # given
        check()
        before = nbytes(service)
        # when connections are opened, and half a request is said
        for _ in range(300):
            strangers.say(b"GET / HTTP/1.1\r\nHost: loc")
        check()
        # when tokens are tried
        for number in range(1_900):
            sent = {"Authorization": f"Bearer wrong-{number}"}
            assert service.call("GET", "/api/flows", headers=sent)[0] in (401, 429)
        check()
        # when headers are as long as they may be
        for cookie in ('a="' + "\\" * 60_000 + '"', 'a="' + "\\1" * 30_000 + '"', "a=b; " * 12_000, "=" * 60_000):
            assert strangers.say(head("GET", "/api/flows", Cookie=cookie), answers=True)[9:12] == b"401"
        check()
        # when bodies are large, said to be so or not
        for path in ("/login", "/api/flows/quick/runs", "/do/run", "/nothing"):
            piece = b"x" * (1 << 20)
            strangers.say(head("POST", path, Content_Length=str(100 << 20)), *[piece] * 100)
            chunk = b"%x\r\n%s\r\n" % (len(piece), piece)
            strangers.say(head("POST", path, Transfer_Encoding="chunked"), *[chunk] * 100)
        check()
        # when websockets are asked for
        upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec_WebSocket_Version": "13"}
        for number in range(1_000):
            path = ("/ws", "/run/ws", "/flow/ws")[number % 3]
            asked = head("GET", path, Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZQ==", **upgrade)
            assert strangers.say(asked, answers=True)[9:12] == b"401"
        check()
        # then
        assert nbytes(service) - before < MAX_GROWTH
        files = len(list(Path(f"/proc/{service.process.pid}/fd").iterdir()))
        assert files < FILES
    lines = service.end().splitlines()
    tried = [line for line in lines if "a wrong token from 127.0.0.1" in line]
    assert 20 <= len(tried) < 100, "twenty a minute"
    assert len(lines) < 200
