"""The service's web server in a thread of this process, on loopback and a free port, over a store in memory."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.client import HTTPConnection
from pathlib import Path
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
from anabranch.service.web.desk import pages_of
from anabranch.service.web.forms import form_routes
from anabranch.web.guard import LOOPBACK, Guard
from anabranch.web.listening import open_sockets
from anabranch.web.server import Server as WebServer
from anabranch.web.thread import ServerThread

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

    def __init__(self, store: InMemoryRunStore, guard: Guard, web: WebServer) -> None:
        self.store = store
        self.guard = guard
        self.web = web

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


def make_certificate(folder: Path) -> tuple[str, str]:
    """Files with a certificate for no name, and its key."""
    from distributed import Security

    found = Security.temporary()
    cert, key = folder / "cert.pem", folder / "key.pem"
    cert.write_text(str(found.tls_scheduler_cert), encoding="ascii")
    key.write_text(str(found.tls_scheduler_key), encoding="ascii")
    return str(cert), str(key)


@contextmanager
def serving(
    token: str = "",
    *,
    hosts: Collection[str] = (),
    tls: ssl.SSLContext | None = None,
    broken: Callable[[], int] = int,
    **options: Any,
) -> Iterator[Server]:
    store = InMemoryRunStore()
    flows = FlowTable(store.database)
    schema = {"type": "object", "properties": {"x": {}}, "required": ["x"]}
    flows.put(FlowRecord("etl", "code", parameters=schema), now=NOON)
    store.finish_run(store.create_run(RunRecord("run-1", "etl", NOON)), "Failed", end=NOON)
    SlotQueue(store.database).add([Slot("run-2", "etl", NOON)], now=NOON)
    guard = Guard(token=token, hosts=(*LOOPBACK, *hosts), **options)
    actions = Actions(store)
    routes = [
        *api_routes(actions, lambda: True, guard, broken=broken),
        *form_routes(actions, guard),
        (r"/page", Page, {}),
        (r"/live", Echo, {}),
    ]
    web = WebServer(guard, routes, make=pages_of(store, guard), tls=tls)
    thread = ServerThread(web, open_sockets("127.0.0.1", 0), name="served")
    try:
        yield Server(store, guard, web)
    finally:
        thread.close()
