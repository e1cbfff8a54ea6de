"""The service's web server in a thread of this process, on loopback and a free port, over a store in memory."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from http.client import HTTPConnection
from typing import Any

from tornado.web import RequestHandler
from tornado.websocket import WebSocketHandler

from anabranch.runs import RunRecord
from anabranch.runs.store.flows import FlowRecord, FlowTable
from anabranch.runs.store.slot_queue import SlotQueue
from anabranch.runs.store.slots import Slot
from anabranch.runs.store.sqlite import InMemoryRunStore
from anabranch.service.web.actions import Actions
from anabranch.service.web.api import api_routes
from anabranch.service.web.forms import form_routes
from anabranch.service.web.guard import LOGIN, Guard
from anabranch.service.web.login import Login
from anabranch.service.web.mount import mounted
from anabranch.service.web.server import WebServer

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Page(RequestHandler):
    def get(self) -> None:
        self.finish("page")


class Echo(WebSocketHandler):
    def check_origin(self, origin: str) -> bool:
        return True  # careless, as pages of others may be: the guard is before it

    def on_message(self, message: str | bytes) -> None:
        self.write_message(message)


class Server:
    """A web server in a thread."""

    def __init__(self, store: InMemoryRunStore, guard: Guard) -> None:
        self.store = store
        self.loop = asyncio.new_event_loop()
        self.web: Any = None
        self.guard = guard

    def call(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        connection = HTTPConnection("127.0.0.1", self.web.port, timeout=10)
        try:
            sent = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()


@contextmanager
def serving(token: str = "", *, tls: ssl.SSLContext | None = None, **options: Any) -> Iterator[Server]:
    store = InMemoryRunStore()
    flows = FlowTable(store.database)
    schema = {"type": "object", "properties": {"x": {}}, "required": ["x"]}
    flows.put(FlowRecord("etl", "code", parameters=schema), now=NOON)
    store.finish_run(store.create_run(RunRecord("run-1", "etl", NOON)), "Failed", end=NOON)
    SlotQueue(store.database).add([Slot("run-2", "etl", NOON)], now=NOON)
    server = Server(store, Guard(token=token, **options))
    ready = threading.Event()

    async def serve() -> None:
        actions, guard = Actions(store), server.guard
        routes = [*api_routes(actions, lambda: True), (LOGIN, Login, {"guard": guard}), *form_routes(actions, guard)]
        routes += [(r"/page", Page, {}), (r"/live", Echo, {})]
        server.web = WebServer(routes, guard, mount=partial(mounted, store, guard), tls=tls)
        server.web.listen("127.0.0.1", 0)
        ready.set()

    server.loop.run_until_complete(serve())
    thread = threading.Thread(target=server.loop.run_forever)
    thread.start()
    assert ready.wait(10)
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(server.web.close(), server.loop).result(10)
        server.loop.call_soon_threadsafe(server.loop.stop)
        thread.join()
        server.loop.run_until_complete(server.loop.shutdown_default_executor())
        server.loop.close()
