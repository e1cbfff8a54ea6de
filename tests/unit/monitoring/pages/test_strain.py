"""Pages under strain: many requests at once, browsers that do not read or vanish, pages that raise or hang.

Whatever becomes of a page, the run is as it would be without one.
"""

from __future__ import annotations

import base64
import http.client
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from tornado.websocket import WebSocketHandler

from anabranch import Flow, task
from anabranch.base.events import Event, MapAdvanced, RunStarted, UnitEnded
from anabranch.errors import RunStoreError
from anabranch.executors import LocalDaskExecutor
from anabranch.monitoring.pages import documents, live_page, maps_figure, server
from anabranch.monitoring.pages.library import Library
from anabranch.monitoring.pages.live_run import LiveRun
from anabranch.monitoring.pages.page_model import PageModel
from anabranch.monitoring.pages.run_page import LOGS, RunPage
from anabranch.monitoring.pages.server import Pages
from anabranch.runs.store.opening import current_store, store_to_show
from anabranch.runs.view import FlowRunView
from anabranch.web import bokeh

GO = threading.Event()


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    GO.clear()
    yield
    GO.set()
    live_page.stop_serving()


@task
def square(x: int) -> int:
    if x == 13:
        raise ValueError("unlucky")
    return x * x


@task
def wait(x: int) -> int:
    assert GO.wait(60)
    return x


def squares(*, waits: bool = False) -> Flow:
    with Flow("squares") as flow:
        square.map(list(range(40)))
        if waits:
            wait(1)
    return flow


def codes_of(view: FlowRunView) -> list[str]:
    return [each.name for each in view.result["square"].map_states]


EXPECTED = ["Failed" if x == 13 else "Success" for x in range(40)]


class Visitor:
    """Asks for pages as a browser does."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self.port = parts.port or 0
        self.page = "/run?" + parts.query.partition("&")[0]
        self.cookie = ""
        _, headers, _ = self.ask(f"{parts.path}?{parts.query}")
        self.cookie = headers["Set-Cookie"].partition(";")[0]

    def ask(self, path: str) -> tuple[int, dict[str, str], str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET", path, headers={"Cookie": self.cookie})
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read().decode()
        finally:
            connection.close()

    def websocket(self) -> socket.socket:
        """A page's websocket, open, of which nothing has been read but the head."""
        _, _, text = self.ask(self.page)
        found = re.search(r'"token":\s*"([^"]+)"', text)
        assert found is not None
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(30)
        client.connect(("127.0.0.1", self.port))
        lines = [
            "GET /run/ws HTTP/1.1", f"Host: 127.0.0.1:{self.port}", "Upgrade: websocket", "Connection: Upgrade",
            f"Origin: http://127.0.0.1:{self.port}", f"Cookie: {self.cookie}", "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
            f"Sec-WebSocket-Protocol: bokeh, {found[1]}",
        ]  # fmt: skip
        client.sendall("\r\n".join([*lines, "", ""]).encode())
        assert client.recv(12) == b"HTTP/1.1 101"
        return client


def until(claim: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < end, "it does not become true"
        time.sleep(0.01)


# Many requests --------------------------------------------------------------------------------------------------------


def test_two_hundred_requests_at_once_leave_the_run_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    # given a run that goes on, and room for few pages
    monkeypatch.setattr(bokeh, "MAX_SESSIONS", 12)
    monkeypatch.setattr(bokeh, "LEFT_MS", 600_000)
    addresses: list[str] = []
    views: list[FlowRunView] = []
    executor = LocalDaskExecutor(num_workers=2)

    def run() -> None:
        views.append(squares(waits=True).run(executor=executor, dashboard=addresses.append))

    thread = threading.Thread(target=run)
    thread.start()
    until(lambda: bool(addresses))
    visitor = Visitor(addresses[0])
    # when two hundred ask at the same time
    paths = [visitor.page, "/", "/flow?name=squares", "/metrics"] * 50
    with ThreadPoolExecutor(200) as pool:
        statuses = list(pool.map(lambda path: (path, visitor.ask(path)[0]), paths))
    sessions = live_page.serving().sessions
    # then each has an answer; pages beyond those that there is room for are refused, and nothing else is
    assert {status for path, status in statuses if path == "/metrics"} == {200}
    assert [status for path, status in statuses if path != "/metrics"].count(200) == 12 == sessions
    assert {status for _, status in statuses} == {200, 503}
    assert thread.is_alive()
    # and the run is what it would have been
    GO.set()
    thread.join(60)
    assert codes_of(views[0]) == EXPECTED
    store = current_store()
    assert store is not None
    assert store.get_run(views[0].run_id).state == "Failed"


def test_pages_cannot_write_to_the_run_store() -> None:
    # given
    view = squares().run(dashboard=lambda address: None)
    source = live_page.serving().library.record(view.run_id)
    assert source is not None
    # then
    store = store_to_show()
    assert store is not None
    assert store is not current_store()
    assert live_page.serving().library._store() is store
    with pytest.raises(RunStoreError, match="opened for reading only"):
        store.delete_run(view.run_id)


def test_a_run_that_cannot_be_recorded_has_its_page_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a run store by default that is none
    (tmp_path / "runs.db").write_text("this is not a database", encoding="utf-8")
    monkeypatch.setenv("ANABRANCH_HOME", str(tmp_path))
    view = squares().run(dashboard=lambda address: None)
    library = live_page.serving().library
    # when its page is made
    source = library.open(view.run_id)
    page = RunPage(source.model, log_rows=source.log_rows)
    page.active = LOGS
    page.update()
    # then it is there, and knows of no record
    assert source.model.state.name == "Failed"
    assert library.record(view.run_id) is None


# Browsers -------------------------------------------------------------------------------------------------------------


class Fed:
    """Pages of a run that is made of events, whose maps change as a whole each time."""

    MAPS, WIDTH = 2, 10_000

    def __init__(self) -> None:
        self.run = LiveRun(PageModel())
        self.times = 0
        self.feed(RunStarted(1.0, "fed", "r1", {f"m{i}": "task" for i in range(self.MAPS)}))
        for i in range(self.MAPS):
            self.feed(MapAdvanced(1.0, f"m{i}", self.WIDTH, 0, 0, 0))

    def feed(self, event: Event) -> None:
        self.run(event)

    def change(self) -> None:
        self.times += 1
        codes = (b"\x0a\x14" if self.times % 2 else b"\x14\x0a") * (self.WIDTH // 2)
        for i in range(self.MAPS):
            self.feed(UnitEnded(2.0, "w", 1.0, 0.1, indices=range(self.WIDTH), codes={f"m{i}": codes}))

    def is_taken(self) -> bool:
        return not self.run._waiting


@pytest.fixture
def fed(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Fed, Pages]]:
    monkeypatch.setattr(documents, "FOLLOW_MS", 20)
    monkeypatch.setattr(maps_figure, "EVERY_S", 0.0)
    monkeypatch.setattr(server, "PUMP_S", 0.01)
    monkeypatch.setattr(bokeh, "UNUSED_SESSION_MS", 200)
    made = Fed()
    library = Library(lambda: None)
    library.add("r1", made.run)
    with Pages(library) as pages:
        pages._sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)  # else the system takes megabytes
        yield made, pages


def test_a_browser_that_does_not_read_is_not_written_to_for_ever(
    fed: tuple[Fed, Pages], monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a page whose websocket is open, and of which nothing is read
    run, pages = fed
    sent = [0]
    write = WebSocketHandler.write_message

    def count(self: Any, message: Any, *args: Any, **kwargs: Any) -> Any:
        sent[0] += len(message)
        return write(self, message, *args, **kwargs)

    monkeypatch.setattr(WebSocketHandler, "write_message", count)
    visitor = Visitor(pages.address("r1"))
    client = visitor.websocket()
    # when the run goes on: then there is an end to what is sent, though not to what happens
    before, same = -1, 0
    for _ in range(400):
        run.change()
        until(run.is_taken)
        visitor.ask("/metrics")  # the server has gone through its loop
        same = same + 1 if sent[0] == before and before > 1_000 else 0
        before = sent[0]
        if same == 20:
            break
    assert same == 20, f"{before:,} bytes, and no end"
    assert before < 4_000_000
    # and whoever reads has the page, as it is now
    assert visitor.ask(visitor.page)[0] == 200
    client.close()


def test_a_browser_that_vanishes_leaves_nothing(fed: tuple[Fed, Pages]) -> None:
    # given
    run, pages = fed
    visitor = Visitor(pages.address("r1"))
    clients = [visitor.websocket() for _ in range(3)]
    assert pages.sessions == 3
    # when all vanish while there is much to send, one with a reset
    run.change()
    clients[0].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    for client in clients:
        client.close()
    # then their pages are discarded, and the run's events are taken as before
    until(lambda: pages.sessions == 0)
    run.change()
    until(run.is_taken)
    assert pages.is_open


# Pages that fail ------------------------------------------------------------------------------------------------------


def test_a_page_that_raises_does_not_change_the_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # given a model that fails, and a function that cannot take the address
    monkeypatch.setattr(server, "PUMP_S", 0.01)

    def fail(*args: object) -> None:
        raise ZeroDivisionError("of the page")

    monkeypatch.setattr(PageModel, "take", fail)
    # when
    view = squares(waits=True)
    GO.set()
    with caplog.at_level(logging.WARNING, "anabranch.dashboard"):
        done = view.run(executor=LocalDaskExecutor(num_workers=2), dashboard=fail)
        until(lambda: "has failed" in caplog.text)
    # then
    assert codes_of(done) == EXPECTED
    assert "nobody could be told the address" in caplog.text
    # and other pages are served
    visitor = Visitor(live_page.serving().address())
    assert visitor.ask("/")[0] == 200


def test_a_page_that_hangs_does_not_hold_up_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    # given a model that hangs at the first event
    hangs = threading.Event()

    def hang(self: PageModel, event: Event) -> None:
        hangs.set()
        GO.wait(60)

    monkeypatch.setattr(server, "PUMP_S", 0.01)
    monkeypatch.setattr(PageModel, "take", hang)
    # when
    view = squares().run(dashboard=lambda address: None)
    assert hangs.wait(30)
    again = squares().run(dashboard=lambda address: None)
    # then
    assert codes_of(view) == codes_of(again) == EXPECTED
